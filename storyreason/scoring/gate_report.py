"""The gate's decision as a Markdown report: verdict, reason, advice, checks, and the scores of both models."""

from collections.abc import Iterable

from storyreason.scoring.catalogue import SCORES
from storyreason.scoring.gate import Check, Decision


def report(decision: Decision) -> str:
    """The report of a decision. Every row names the decoding of its score."""
    challenger, incumbent = decision.challenger, decision.incumbent
    decoding = decision.config.primary.partition("/")[0]
    head = {"promote": f"Promote {challenger}", "keep": f"Keep {incumbent}", "refuse": "No decision"}
    parts = [
        f"# {head[decision.verdict]}",
        f"{challenger} against {incumbent} on {decision.stories} test stories, story by story ({decoding} decoding).",
        f"**Why:** {decision.reason}",
        f"**What to do:** {decision.advice}",
        *_checked(decision.checks),
        "## Scores",
        "\n".join(_scores(decision, decoding)),
        f"In brackets: {decision.config.confidence:.0%} intervals, {decision.config.resamples} bootstrap resamples of the "
        f"stories, seed {decision.config.seed}. A difference is real when its paired interval leaves out 0.",
    ]
    return "\n\n".join(parts) + "\n"


def _checked(checks: Iterable[Check]) -> list[str]:
    """The checks as a list, empty if there were none. Prefect cuts off wide tables, whose cells it does not wrap."""
    rows = [
        f"- {'passed' if c.passed else '**failed**'}: {_title(c.name)}: {c.found}; required: {c.required}"
        for c in checks
    ]
    return ["## What was checked", "\n".join(rows)] if rows else []


def _scores(decision: Decision, decoding: str) -> Iterable[str]:
    """The lines of a table with the main scores of both models and their intervals."""
    yield f"| Real? | Score | Difference | {decision.challenger} | {decision.incumbent} |"
    yield "|---|---|---|---|---|"
    for row in decision.scores:
        change = row.change
        cells = [
            "**yes**" if change.real else "no",
            _title(f"{decoding}/{change.name}"),
            _with_interval(change.name, change.gain, (change.low, change.high), signed=True),
            _with_interval(change.name, change.a, row.ours),
            _with_interval(change.name, change.b, row.theirs),
        ]
        yield f"| {' | '.join(cells)} |"


def _title(name: str) -> str:
    """`free/strict/validity/valid` as words, which break into lines where a name would widen the table: `valid answers, free`."""
    decoding, _, score = name.partition("/")
    return f"{SCORES[score].title}, {decoding}" if score in SCORES else name


def _with_interval(name: str, value: float, interval: tuple[float, float], signed: bool = False) -> str:
    value_, low, high = (SCORES[name].text(one, signed) for one in (value, *interval))
    return f"{value_} [{low}, {high}]"
