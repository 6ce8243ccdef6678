"""The gate: is the challenger better than what is served, beyond doubt and without a guarded score getting worse?"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from storyreason.errors import ScoringError
from storyreason.scoring.catalogue import GUARDED, MAIN, SCORES, VALID
from storyreason.scoring.config import GateConfig
from storyreason.scoring.metrics import Score
from storyreason.scoring.scorecard import Difference, Scorecard, compare

Verdict = Literal["promote", "keep", "refuse"]


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of the promotion. `name` begins with the decoding (`free/strict/validity/valid`)."""

    name: str
    passed: bool
    found: str
    wanted: str
    advice: str


@dataclass(frozen=True, slots=True)
class Compared:
    """One score of both models: the paired difference, and the interval of each model's own value."""

    change: Difference
    ours: tuple[float, float]
    theirs: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Decision:
    """`verdict` tells "keep" (the incumbent stays) from "refuse" (nothing can be decided). `checks` is empty where the
    decision was clear before any score was looked at; `scores` holds the main scores of both."""

    verdict: Verdict
    reason: str
    advice: str
    challenger: str
    incumbent: str
    stories: int
    config: GateConfig
    scores: tuple[Compared, ...]
    checks: tuple[Check, ...] = ()

    @property
    def promote(self) -> bool:
        """Whether the challenger takes the incumbent's place."""
        return self.verdict == "promote"


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
    settings = config.confidence, config.resamples, config.seed
    differences = compare(ours, theirs, *settings)
    if primary not in differences:
        known = ", ".join(sorted(differences)[:6])
        raise ScoringError(
            f"The primary score {config.primary!r} is not on both scorecards: set `gate.primary` to {decoding}/ and "
            f"one of {known}, …"
        )
    conclude = partial(
        Decision,
        challenger=challenger,
        incumbent=incumbent,
        stories=len(ours.story_ids),
        config=config,
        scores=_compared(differences, ours.intervals(*settings), theirs.intervals(*settings)),
    )
    names = {"challenger": challenger, "incumbent": incumbent}
    if obstacle := _obstacle(ours.story_ids, differences, config, names, trained_on or {}):
        return conclude(*obstacle)

    guarded = {name: (decoding, change) for name, change in differences.items()}
    if free:
        guarded[VALID] = "free", compare(free[0], free[1], *settings)[VALID]
    undefined = theirs.metrics().keys() - ours.metrics().keys()
    checks = (
        _primary(differences[primary], config, len(ours.story_ids)),
        *_floor(*guarded[VALID], config),
        *_guards(guarded, undefined, config),
    )
    failed = [check for check in checks if not check.passed]
    if failed:
        reason = " ".join(f"{check.name}: {check.found}, wanted {check.wanted}." for check in failed)
        return conclude("keep", reason, " ".join(dict.fromkeys(check.advice for check in failed)), checks=checks)
    first = checks[0]
    reason = f"{first.name}: {first.found}, wanted {first.wanted}; no guarded score fell past its tolerance."
    advice = "Nothing: it is deployed next. `storyreason deploy previous` goes back."
    return conclude("promote", reason, advice, checks=checks)


def _obstacle(
    story_ids: Collection[str],
    differences: Mapping[str, Difference],
    config: GateConfig,
    names: Mapping[str, str],
    trained_on: Mapping[str, Collection[str]],
) -> tuple[Verdict, str, str] | None:
    """Verdict, reason and advice where it makes no sense to look at the scores, else None."""
    stories = len(story_ids)
    if stories < config.min_stories:
        reason = f"{stories} test stories are too few to decide on: at least {config.min_stories} are wanted."
        return "refuse", reason, "Add test stories, or lower `gate.min_stories` and leave it more to chance."
    for role, name in names.items():
        seen = sorted(set(story_ids).intersection(trained_on.get(role, ())))
        if seen:
            reason = (
                f"{name} has trained on {len(seen)} of the {stories} test stories ({seen[0]!r} for one): "
                "its scores say nothing about new stories."
            )
            return "keep", reason, "Take these stories out of one of the two splits and retrain."
    if config.min_gain >= 0 and all(change.gain == change.low == change.high == 0 for change in differences.values()):
        reason = (
            f"{names['challenger']} and {names['incumbent']} have the same scores on every story: "
            "there is nothing to gain."
        )
        return "keep", reason, "Change the data or the training, then retrain."
    return None


def _compared(
    differences: Mapping[str, Difference],
    ours: Mapping[str, tuple[float, float]],
    theirs: Mapping[str, tuple[float, float]],
) -> tuple[Compared, ...]:
    """The main scores that both models have."""
    names = [score.name for score in MAIN if score.name in differences]
    return tuple(Compared(differences[name], ours[name], theirs[name]) for name in names)


def _primary(change: Difference, config: GateConfig, stories: int) -> Check:
    score = SCORES[change.name]
    advice = (
        f"The gain may be chance: {stories} stories cannot tell. Train further, or score more test stories."
        if change.high > config.min_gain
        else "It is no better where it counts. Look at its story pages and its scores by kind before you train again."
    )
    wanted = f"an interval above {score.text(config.min_gain, signed=True)}"
    return Check(config.primary, change.low > config.min_gain, _gain(score, change, config.confidence), wanted, advice)


def _floor(decoding: str, change: Difference, config: GateConfig) -> Iterable[Check]:
    """Being better than a base model that says nothing usable is not enough: most answers must be usable."""
    if change.a < config.min_validity:
        advice = "Most of its answers break a rule (the chart of rules shows which): train further or on more data."
        text = SCORES[VALID].text
        wanted = f"at least {text(config.min_validity)} (`gate.min_validity`)"
        yield Check(f"share of valid answers ({decoding} decoding)", False, text(change.a), wanted, advice)


def _guards(
    changes: Mapping[str, tuple[str, Difference]], undefined: Collection[str], config: GateConfig
) -> Iterable[Check]:
    """The guarded scores that both models have, each with the decoding it is of; and those that only the incumbent has
    (`undefined` names them). The change itself counts here, not its interval."""
    for score in GUARDED:
        most = getattr(config, str(score.guard))
        advice = (
            f"Find the stories where {score.name} got worse in the per-story table; "
            f"`gate.{score.guard}` says how much you accept."
        )
        if score.name in changes:
            decoding, change = changes[score.name]
            worse = "rise" if score.better == "lower" else "fall"
            loss = change.gain if score.better == "lower" else -change.gain
            # Rounded: 0.96 - 0.95 is 0.010000000000000009 in floating point, and still within a tolerance of 0.01.
            passed, found = round(loss, 12) <= most, _gain(score, change, config.confidence)
            yield Check(f"{decoding}/{score.name}", passed, found, f"a {worse} of at most {score.text(most)}", advice)
        elif score.name in undefined:
            decoding = config.primary.partition("/")[0]
            found = f"undefined, for its stories have no {score.formula.unit}"
            yield Check(f"{decoding}/{score.name}", False, found, f"stories with {score.formula.unit}", advice)


def _gain(score: Score, change: Difference, confidence: float) -> str:
    """`+0.052 (0.410 to 0.462; 95% interval +0.021 to +0.080)`"""
    gain, low, high = (score.text(value, signed=True) for value in (change.gain, change.low, change.high))
    return f"{gain} ({score.text(change.b)} to {score.text(change.a)}; {confidence:.0%} interval {low} to {high})"
