"""The gate's decision as a Markdown report: verdict, reason, advice, checks, and the scores of both models."""

from collections.abc import Iterable

from storyreason.scoring.catalogue import SCORES, titled
from storyreason.scoring.gate import Check, Decision


def report(decision: Decision) -> str:
    """The report of a decision. Every row names the decoding of its score."""
    challenger, incumbent = decision.challenger, decision.incumbent
    decoding = decision.config.primary.partition("/")[0]
    head = {"promote": f"Promote {challenger}", "keep": f"Keep {incumbent}", "refuse": "No decision"}
    parts = [
        f"# {head[decision.verdict]}",
        f"The challenger, {challenger}, against the incumbent, {incumbent}, on {decision.stories} test stories, story by story "
        f"({decoding} decoding).",
        f"**Why:** {decision.reason}",
        f"**What to do:** {decision.advice}",
        *_checked(decision.checks),
        "## Scores",
        "\n".join(_scores(decision, decoding)),
        f"In brackets: the paired {decision.config.confidence:.0%} interval, from {decision.config.resamples} bootstrap "
        f"resamples of the films, seed {decision.config.seed}. In bold: the difference is real, because its interval leaves "
        "out 0. The intervals of each model are in `scores.json` of its run.",
    ]
    return "\n\n".join(parts) + "\n"


def _checked(checks: Iterable[Check]) -> list[str]:
    """The checks as a list, empty if there were none. Prefect cuts off wide tables, whose cells it does not wrap."""
    rows = [
        f"- {'passed' if c.passed else '**failed**'}: {titled(c.name)}: {c.found}; required: {c.required}"
        for c in checks
    ]
    return ["## What was checked", "\n".join(rows)] if rows else []


def _scores(decision: Decision, decoding: str) -> Iterable[str]:
    """The lines of a table with the main scores of both models, narrow enough for Prefect's page."""
    yield "| Score | Difference | Challenger | Incumbent |"
    yield "|---|---|---:|---:|"
    for change in decision.scores:
        score = SCORES[change.name]
        gain, low, high = (score.text(one, signed=True) for one in (change.gain, change.low, change.high))
        mark = "**" if change.real else ""
        cells = [
            titled(f"{decoding}/{change.name}"),
            f"{mark}{gain} [{low}, {high}]{mark}",
            score.text(change.a),
            score.text(change.b),
        ]
        yield f"| {' | '.join(cells)} |"
