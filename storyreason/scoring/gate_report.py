"""The gate's decision as Markdown, for people: what was decided, why, what to do, and the scores of both models."""

from collections.abc import Iterable

from storyreason.scoring.catalogue import SCORES
from storyreason.scoring.gate import Check, Decision


def report(decision: Decision) -> str:
    """The report of a decision. Every row says the decoding that its score is of."""
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
    """The conditions as a table, nothing where none was looked at. The result comes first: Prefect cuts off what is wide."""
    rows = [f"| {'passed' if c.passed else '**failed**'} | {c.name} | {c.found} | {c.wanted} |" for c in checks]
    return (
        ["## What was checked", "\n".join(["| | Score | Found | Wanted |", "|---|---|---|---|", *rows])] if rows else []
    )


def _scores(decision: Decision, decoding: str) -> Iterable[str]:
    """The main scores of both side by side, with intervals, as the lines of a table."""
    yield f"| Score | {decision.challenger} | {decision.incumbent} | Difference | Real? |"
    yield "|---|---|---|---|---|"
    for row in decision.scores:
        change = row.change
        cells = [
            f"{decoding}/{change.name}",
            _with_interval(change.name, change.a, row.ours),
            _with_interval(change.name, change.b, row.theirs),
            _with_interval(change.name, change.gain, (change.low, change.high), signed=True),
            "yes" if change.real else "no",
        ]
        yield f"| {' | '.join(cells)} |"


def _with_interval(name: str, value: float, interval: tuple[float, float], signed: bool = False) -> str:
    value_, low, high = (SCORES[name].text(one, signed) for one in (value, *interval))
    return f"{value_} [{low}, {high}]"
