"""The gate: is the challenger better than what is served, beyond doubt and at no guarded cost?"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from storyreason.errors import ScoringError
from storyreason.scoring.config import GateConfig
from storyreason.scoring.scorecard import Difference, Scorecard, compare

HALLUCINATIONS = "strict/references/hallucinations_per_100_mentions"
HEADLINES = (
    "strict/validity/valid", "strict/validity/readable",
    "strict/grounding/f1", "strict/grounding/precision", "strict/grounding/recall", "strict/grounding/f1_50_95",
    "strict/grounding/mean_iou", "strict/grounding/entities_per_frame",
    "strict/grounding/char/f1", "strict/grounding/obj/f1", "strict/grounding/lm/f1", "strict/grounding/bg/f1",
    "strict/identity/idf1", "strict/identity/bcubed_f1", "strict/identity/links_f1",
    HALLUCINATIONS, "strict/references/pronouns_grounded", "strict/language/words",
    "paper/F1", "paper/mAP", "paper/METEOR", "paper/ROUGE-L", "paper/BLEU-4",
)  # fmt: skip
"""The scores that the report shows, where a scorecard has them; all of them are in the run's metrics."""


@dataclass(frozen=True)
class Candidate:
    """A model that stands at the gate. `cards` are its scorecards by decoding (`free`, `grounded`); `identity` is a
    fingerprint or registry version, equal only for the same model; `trained_on` the stories it has learned from."""

    name: str
    cards: Mapping[str, Scorecard]
    identity: str = ""
    trained_on: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True)
class Decision:
    """`verdict` tells "keep" (the incumbent stays) from "refuse" (nothing can be decided); `report` is Markdown."""

    promote: bool
    verdict: Literal["promote", "keep", "refuse"]
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


def decide(challenger: Candidate, incumbent: Candidate, config: GateConfig) -> Decision:
    """Whether the challenger takes the incumbent's place: the champion's, or the base model's where there is none.

    Pure and repeatable: the same scorecards give the same decision. Raises ScoringError where the scorecards are not
    about the same stories, or lack the primary score.
    """
    decoding, _, primary = config.primary.partition("/")
    ours, theirs = _card(challenger, decoding), _card(incumbent, decoding)
    stories = len(ours.story_ids)
    differences = {
        name: compare(challenger.cards[name], incumbent.cards[name], config.confidence, config.resamples, config.seed)
        for name in challenger.cards
        if name in incumbent.cards
    }

    def conclude(
        verdict: Literal["promote", "keep", "refuse"], reason: str, advice: str, checks: list[_Check]
    ) -> Decision:
        report = _report(challenger, incumbent, config, verdict, reason, advice, checks, differences)
        return Decision(verdict == "promote", verdict, reason, report)

    if challenger.identity and challenger.identity == incumbent.identity:
        reason = f"{challenger.name} and {incumbent.name} are the same model: there is nothing to gain."
        return conclude("keep", reason, "Change the data or the training, then retrain.", [])
    if stories < config.min_stories:
        reason = f"{stories} test stories are too few to decide on: at least {config.min_stories} are wanted."
        advice = "Add test stories, or lower `gate.min_stories` if the verdict may be left to chance."
        return conclude("refuse", reason, advice, [])
    for candidate in (challenger, incumbent):
        seen = sorted(candidate.trained_on.intersection(ours.story_ids))
        if seen:
            reason = (
                f"{candidate.name} has trained on {len(seen)} of the {stories} test stories ({seen[0]!r} for one): "
                "its scores say nothing about new stories."
            )
            advice = "Take these stories out of one of the two splits, retrain or score again, and decide then."
            return conclude("keep", reason, advice, [])

    checks = [
        _primary(differences[decoding], primary, config, stories),
        *_guards(differences[decoding], ours, theirs, config),
    ]
    failed = [check for check in checks if not check.passed]
    if failed:
        reason = " ".join(f"{check.name}: {check.found}, wanted {check.wanted}." for check in failed)
        return conclude("keep", reason, " ".join(dict.fromkeys(check.advice for check in failed)), checks)
    reason = (
        f"{checks[0].name}: {checks[0].found}, wanted {checks[0].wanted}; no guarded score fell past its tolerance."
    )
    advice = "Nothing: it is deployed next. `storyreason deploy previous` goes back."
    return conclude("promote", reason, advice, checks)


def _card(candidate: Candidate, decoding: str) -> Scorecard:
    if decoding not in candidate.cards:
        raise ScoringError(
            f"{candidate.name} was not scored with {decoding} decoding "
            f"(found: {', '.join(candidate.cards) or 'none'}): evaluate it so, or choose another `gate.primary`."
        )
    return candidate.cards[decoding]


def _primary(differences: Mapping[str, Difference], name: str, config: GateConfig, stories: int) -> _Check:
    if name not in differences:
        raise ScoringError(
            f"The primary score {config.primary!r} is not on both scorecards: set `gate.primary` to one of "
            f"{', '.join(sorted(differences)[:8])}, …"
        )
    change = differences[name]
    advice = (
        f"The gain may be chance: {stories} stories cannot tell. Train further, or score more test stories."
        if change.high > config.min_gain
        else "It is no better where it counts. Look at its story pages and its scores by kind before you train again."
    )
    wanted = f"an interval above {_number(name, config.min_gain, signed=True)}"
    return _Check(name, change.low > config.min_gain, _gain(change, config.confidence), wanted, advice)


def _guards(
    differences: Mapping[str, Difference], ours: Scorecard, theirs: Scorecard, config: GateConfig
) -> Iterable[_Check]:
    """The guarded scores that both scorecards have: the change itself counts here, not its interval."""
    falling: tuple[tuple[str, float, Callable[[float, float], bool], str], ...] = (
        (
            "strict/validity/valid",
            config.validity_tolerance,
            lambda gain, most: gain >= -most,
            "gate.validity_tolerance",
        ),
        ("strict/identity/idf1", config.idf1_tolerance, lambda gain, most: gain >= -most, "gate.idf1_tolerance"),
        (
            HALLUCINATIONS,
            config.hallucinations_tolerance,
            lambda gain, most: gain <= most,
            "gate.hallucinations_tolerance",
        ),
    )
    for name, most, holds, setting in falling:
        advice = (
            f"Find the stories where {name} got worse in the per-story table; `{setting}` says how much you accept."
        )
        if name in differences:
            change = differences[name]
            rising = name == HALLUCINATIONS
            wanted = f"{'a rise' if rising else 'a fall'} of at most {_number(name, most)}"
            # A difference of exactly the tolerance, as 0.95 - 0.96 in floating point, still passes.
            passed = holds(round(change.gain, 12), most)
            yield _Check(name, passed, _gain(change, config.confidence), wanted, advice)
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


def _report(
    challenger: Candidate,
    incumbent: Candidate,
    config: GateConfig,
    verdict: str,
    reason: str,
    advice: str,
    checks: list[_Check],
    differences: Mapping[str, Mapping[str, Difference]],
) -> str:
    """The decision for a person: verdict and why, what to do, what was checked, and the scores side by side."""
    heads = {
        "promote": f"Promote {challenger.name}",
        "keep": f"Keep {incumbent.name}",
        "refuse": "No decision",
    }
    card = next(iter(challenger.cards.values()))
    lines = [
        f"# {heads[verdict]}",
        "",
        f"{challenger.name} was compared with {incumbent.name} on {len(card.story_ids)} test stories, story by story.",
        "",
        f"**Why:** {reason}",
        "",
        f"**What to do:** {advice}",
    ]
    if checks:
        lines += ["", "## What was checked", "", "| Score | Found | Wanted | |", "|---|---|---|---|"]
        lines += [f"| {c.name} | {c.found} | {c.wanted} | {'passed' if c.passed else '**failed**'} |" for c in checks]
    for decoding, changes in differences.items():
        ours = challenger.cards[decoding].intervals(config.confidence, config.resamples, config.seed)
        theirs = incumbent.cards[decoding].intervals(config.confidence, config.resamples, config.seed)
        lines += ["", f"## Scores, {decoding} decoding", ""]
        lines += [f"| Score | {challenger.name} | {incumbent.name} | Difference | Real? |", "|---|---|---|---|---|"]
        for name in HEADLINES:
            if name not in changes:
                continue
            change = changes[name]
            cells = [
                name,
                _with_interval(name, change.a, ours[name]),
                _with_interval(name, change.b, theirs[name]),
                _with_interval(name, change.gain, (change.low, change.high), signed=True),
                "yes" if change.real else "no",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"In brackets: {config.confidence:.0%} intervals, {config.resamples} bootstrap resamples of the stories, "
        f"seed {config.seed}. A difference is real when its paired interval leaves out 0.",
    ]
    return "\n".join(lines) + "\n"


def _with_interval(name: str, value: float, interval: tuple[float, float], signed: bool = False) -> str:
    low, high = interval
    return f"{_number(name, value, signed)} [{_number(name, low, signed)}, {_number(name, high, signed)}]"
