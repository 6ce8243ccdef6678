"""The gate: is the challenger better than what is served, beyond doubt and at no guarded cost?"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from storyreason.errors import ScoringError
from storyreason.scoring.config import GateConfig
from storyreason.scoring.scorecard import Difference, Scorecard, compare

HALLUCINATIONS = "strict/references/hallucinations_per_100_mentions"
VALID = "strict/validity/valid"
HEADLINES = (
    VALID, "strict/validity/readable",
    "strict/grounding/f1", "strict/grounding/precision", "strict/grounding/recall", "strict/grounding/f1_50_95",
    "strict/grounding/mean_iou", "strict/grounding/entities_per_frame",
    "strict/grounding/char/f1", "strict/grounding/obj/f1", "strict/grounding/lm/f1", "strict/grounding/bg/f1",
    "strict/identity/idf1", "strict/identity/bcubed/f1", "strict/identity/links/f1",
    HALLUCINATIONS, "strict/references/pronouns_grounded", "strict/language/words",
    "paper/F1", "paper/mAP", "paper/METEOR", "paper/ROUGE-L", "paper/BLEU-4",
)  # fmt: skip
"""The scores that the report shows, where a scorecard has them; all of them are in the run's metrics."""


Verdict = Literal["promote", "keep", "refuse"]


@dataclass(frozen=True, slots=True)
class Decision:
    """`verdict` tells "keep" (the incumbent stays) from "refuse" (nothing can be decided); `report` is Markdown."""

    promote: bool
    verdict: Verdict
    reason: str
    report: str


@dataclass(frozen=True, slots=True)
class _Check:
    """One condition of the promotion, as a row of the report."""

    name: str
    passed: bool
    found: str
    wanted: str
    advice: str


def decide(
    ours: Scorecard,
    theirs: Scorecard,
    config: GateConfig,
    *,
    challenger: str = "the challenger",
    incumbent: str = "the champion",
    trained_on: Mapping[str, Collection[str]] | None = None,
    free: tuple[Scorecard, Scorecard] | None = None,
) -> Decision:
    """Whether the challenger (`ours`) takes the incumbent's place (`theirs`): the champion's, or the base model's where
    there is none. Both scorecards are of the decoding that `config.primary` names.

    `challenger` and `incumbent` are names for the report; `trained_on` the ids of the stories that each has learned
    from, under the keys "challenger" and "incumbent"; `free` both scorecards of free decoding, whose validity is
    guarded then (under grammars any model's is whole). Pure and repeatable: the same scorecards give the same decision.
    Raises ScoringError where the scorecards are not about the same stories, or lack the primary score.
    """
    decoding, _, primary = config.primary.partition("/")
    stories = len(ours.story_ids)
    differences = compare(ours, theirs, config.confidence, config.resamples, config.seed)
    if primary not in differences:
        known = ", ".join(sorted(differences)[:6])
        raise ScoringError(
            f"The primary score {config.primary!r} is not on both scorecards: set `gate.primary` to {decoding}/ and "
            f"one of {known}, …"
        )

    def conclude(verdict: Verdict, reason: str, advice: str, checks: Sequence[_Check] = ()) -> Decision:
        head = {"promote": f"Promote {challenger}", "keep": f"Keep {incumbent}", "refuse": "No decision"}[verdict]
        lines = [
            f"# {head}",
            f"{challenger} against {incumbent} on {stories} test stories, story by story ({decoding} decoding).",
            f"**Why:** {reason}",
            f"**What to do:** {advice}",
            *_checked(checks),
            *_scores(ours, theirs, differences, config, challenger, incumbent),
        ]
        return Decision(verdict == "promote", verdict, reason, "\n\n".join(lines) + "\n")

    if stories < config.min_stories:
        reason = f"{stories} test stories are too few to decide on: at least {config.min_stories} are wanted."
        return conclude("refuse", reason, "Add test stories, or lower `gate.min_stories` and leave it more to chance.")
    for role, name in (("challenger", challenger), ("incumbent", incumbent)):
        seen = sorted(set(ours.story_ids).intersection((trained_on or {}).get(role, ())))
        if seen:
            reason = (
                f"{name} has trained on {len(seen)} of the {stories} test stories ({seen[0]!r} for one): "
                "its scores say nothing about new stories."
            )
            return conclude("keep", reason, "Take these stories out of one of the two splits and retrain.")
    if config.min_gain >= 0 and all(change.gain == change.low == change.high == 0 for change in differences.values()):
        reason = f"{challenger} and {incumbent} have the same scores on every story: there is nothing to gain."
        return conclude("keep", reason, "Change the data or the training, then retrain.")

    guarded = dict(differences)
    if free:
        guarded[VALID] = compare(*free, config.confidence, config.resamples, config.seed)[VALID]
    checks = [
        _primary(differences[primary], config, stories),
        *_floor(guarded[VALID], config),
        *_guards(guarded, ours, theirs, config),
    ]
    failed = [check for check in checks if not check.passed]
    if failed:
        reason = " ".join(f"{check.name}: {check.found}, wanted {check.wanted}." for check in failed)
        return conclude("keep", reason, " ".join(dict.fromkeys(check.advice for check in failed)), checks)
    reason = f"{primary}: {checks[0].found}, wanted {checks[0].wanted}; no guarded score fell past its tolerance."
    return conclude("promote", reason, "Nothing: it is deployed next. `storyreason deploy previous` goes back.", checks)


def _primary(change: Difference, config: GateConfig, stories: int) -> _Check:
    advice = (
        f"The gain may be chance: {stories} stories cannot tell. Train further, or score more test stories."
        if change.high > config.min_gain
        else "It is no better where it counts. Look at its story pages and its scores by kind before you train again."
    )
    wanted = f"an interval above {_number(change.name, config.min_gain, signed=True)}"
    return _Check(change.name, change.low > config.min_gain, _gain(change, config.confidence), wanted, advice)


def _floor(change: Difference, config: GateConfig) -> Iterable[_Check]:
    """Being better than a base model that says nothing usable is not enough: most answers must be usable."""
    if change.a < config.min_validity:
        advice = "Most of its answers break a rule (the chart of rules shows which): train further or on more data."
        wanted = f"at least {_number(VALID, config.min_validity)} (`gate.min_validity`)"
        yield _Check("share of valid answers", False, _number(VALID, change.a), wanted, advice)


def _guards(
    differences: Mapping[str, Difference], ours: Scorecard, theirs: Scorecard, config: GateConfig
) -> Iterable[_Check]:
    """The guarded scores that both scorecards have: the change itself counts here, not its interval."""
    for name, most, setting in (
        (VALID, config.validity_tolerance, "gate.validity_tolerance"),
        ("strict/identity/idf1", config.idf1_tolerance, "gate.idf1_tolerance"),
        (HALLUCINATIONS, config.hallucinations_tolerance, "gate.hallucinations_tolerance"),
    ):
        advice = (
            f"Find the stories where {name} got worse in the per-story table; `{setting}` says how much you accept."
        )
        if name in differences:
            change = differences[name]
            loss = change.gain if name == HALLUCINATIONS else -change.gain
            wanted = f"a {'rise' if name == HALLUCINATIONS else 'fall'} of at most {_number(name, most)}"
            # Rounded: 0.96 - 0.95 is 0.010000000000000009 in floating point, and still within a tolerance of 0.01.
            yield _Check(name, round(loss, 12) <= most, _gain(change, config.confidence), wanted, advice)
        elif name == HALLUCINATIONS and name in theirs.metrics() and name not in ours.metrics():
            yield _Check(
                name, False, "not one mention in all its stories", "stories that mention their entities", advice
            )


def _gain(change: Difference, confidence: float) -> str:
    """`+0.052 (0.410 to 0.462; 95% interval +0.021 to +0.080)`"""
    gain, low, high = (_number(change.name, value, signed=True) for value in (change.gain, change.low, change.high))
    before, after = _number(change.name, change.b), _number(change.name, change.a)
    return f"{gain} ({before} to {after}; {confidence:.0%} interval {low} to {high})"


def _number(name: str, value: float, signed: bool = False) -> str:
    """Shares to three places, counts (words, rates per 100) to two: `+0.012`, `3.40`."""
    places = 2 if "per_" in name or "words" in name else 3
    return f"{value + 0.0:{'+' if signed else ''}.{places}f}"


def _checked(checks: Sequence[_Check]) -> list[str]:
    """The conditions as a Markdown table, nothing where none was looked at."""
    if not checks:
        return []
    rows = [f"| {c.name} | {c.found} | {c.wanted} | {'passed' if c.passed else '**failed**'} |" for c in checks]
    return ["## What was checked", "\n".join(["| Score | Found | Wanted | |", "|---|---|---|---|", *rows])]


def _scores(
    ours: Scorecard,
    theirs: Scorecard,
    differences: Mapping[str, Difference],
    config: GateConfig,
    challenger: str,
    incumbent: str,
) -> list[str]:
    """The main scores of both side by side, with intervals, as a Markdown table."""
    settings = config.confidence, config.resamples, config.seed
    of_ours, of_theirs = ours.intervals(*settings), theirs.intervals(*settings)
    rows = [f"| Score | {challenger} | {incumbent} | Difference | Real? |", "|---|---|---|---|---|"]
    for name in HEADLINES:
        if name not in differences:
            continue
        change = differences[name]
        cells = [
            name,
            _with_interval(name, change.a, of_ours[name]),
            _with_interval(name, change.b, of_theirs[name]),
            _with_interval(name, change.gain, (change.low, change.high), signed=True),
            "yes" if change.real else "no",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    legend = (
        f"In brackets: {config.confidence:.0%} intervals, {config.resamples} bootstrap resamples of the stories, "
        f"seed {config.seed}. A difference is real when its paired interval leaves out 0."
    )
    return ["## Scores", "\n".join(rows), legend]


def _with_interval(name: str, value: float, interval: tuple[float, float], signed: bool = False) -> str:
    low, high = interval
    return f"{_number(name, value, signed)} [{_number(name, low, signed)}, {_number(name, high, signed)}]"
