"""Validity: does an answer keep the rules of the format (`storyreason.format.rules`)?"""

from collections.abc import Sequence

from storyreason.format.problems import Problem
from storyreason.format.rules import RULES, is_valid


def count(problems: Sequence[Problem] | None, missing: bool, grounded: bool = False) -> dict[str, float]:
    """One answer's counts. `problems` is None for an unreadable answer, which keeps no rule.

    `grounded`: whether the answer was decoded grounded.
    """
    broken = set(RULES) if problems is None else {problem.rule for problem in problems}
    return {
        "validity/missing": missing,
        "validity/readable": problems is not None,
        "validity/valid": problems is not None and is_valid(problems, grounded),
        **{f"validity/rules/{rule}": rule not in broken for rule in RULES},
    }
