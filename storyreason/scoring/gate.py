"""The gate: is the challenger significantly better than the model that is served, with no guarded score worse?"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from storyreason.errors import ScoringError
from storyreason.scoring import control
from storyreason.scoring.catalogue import GUARDED, MAIN, SCORES, VALID, titled
from storyreason.scoring.config import GateConfig
from storyreason.scoring.metrics import Score
from storyreason.scoring.scorecard import Difference, Scorecard, compare

Verdict = Literal["promote", "keep", "refuse"]
RECALL, WORDS = "strict/grounding/recall", "strict/language/words"


@dataclass(frozen=True, slots=True)
class Check:
    """A condition for promotion. `name` starts with the decoding (`free/strict/validity/valid`)."""

    name: str
    passed: bool
    found: str
    required: str
    advice: str


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with its reasons: "keep" means that the incumbent stays, "refuse" that nothing can be decided.

    `checks` is empty if the decision did not depend on scores; `scores` holds the main scores for which
    both models have a value.
    """

    verdict: Verdict
    reason: str
    advice: str
    challenger: str
    incumbent: str
    stories: int
    config: GateConfig
    scores: tuple[Difference, ...]
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
    supervised: Scorecard | None = None,
) -> Decision:
    """Whether the challenger (`ours`) replaces the incumbent (`theirs`): the champion, or the base model if there is none.

    The scorecards must be of the decoding that `config.primary` names. `challenger` and `incumbent` are names for the report.
    `trained_on` holds the IDs of the stories that each was trained on, under these keys. `free` holds both scorecards of free
    decoding; validity is then guarded there: a grammar makes any answer valid. `supervised` is what an improved challenger was
    before; recall and length are then guarded against it. The same scorecards give the same decision. Raises ScoringError if
    they cover different stories or lack the primary score.
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
        scores=tuple(differences[score.name] for score in MAIN if score.name in differences),
    )
    names = {"challenger": challenger, "incumbent": incumbent}
    if obstacle := _obstacle(ours.story_ids, differences, config, names, trained_on or {}):
        return conclude(*obstacle)

    since = compare(ours, supervised, *settings) if supervised else differences
    guarded = {name: (decoding, change) for name, change in differences.items()}
    if free:
        guarded[VALID] = "free", compare(free[0], free[1], *settings)[VALID]
    undefined = theirs.metrics().keys() - ours.metrics().keys()
    checks = (
        _primary(differences[primary], config, len(ours.story_ids)),
        *_controls(ours, primary, config),
        *_floor(*guarded[VALID], config),
        *(*_guards(guarded, undefined, config), *_shares(since, decoding, config)),
    )
    failed = [check for check in checks if not check.passed]
    if failed:
        reason = " ".join(f"{titled(check.name)}: {check.found}, required: {check.required}." for check in failed)
        return conclude("keep", reason, " ".join(dict.fromkeys(check.advice for check in failed)), checks=checks)
    found = f"{titled(checks[0].name)}: {checks[0].found}, required: {checks[0].required}"
    reason = f"{found}; no guarded score got worse by more than its tolerance."
    advice = "Nothing: the challenger is deployed next. `storyreason deploy previous` rolls back."
    return conclude("promote", reason, advice, checks=checks)


def _obstacle(
    story_ids: Collection[str],
    differences: Mapping[str, Difference],
    config: GateConfig,
    names: Mapping[str, str],
    trained_on: Mapping[str, Collection[str]],
) -> tuple[Verdict, str, str] | None:
    """Verdict, reason and advice if comparing scores would be meaningless, else None."""
    stories = len(story_ids)
    if stories < config.min_stories:
        reason = f"{stories} test stories are too few to decide: at least {config.min_stories} are required."
        return (
            "refuse",
            reason,
            "Add test stories, or lower `gate.min_stories` and accept a decision that depends more on chance.",
        )
    for role, name in names.items():
        seen = sorted(set(story_ids).intersection(trained_on.get(role, ())))
        if seen:
            reason = (
                f"{name} was trained on {len(seen)} of the {stories} test stories (for example {seen[0]!r}): "
                "its scores say nothing about new stories."
            )
            return "keep", reason, "Remove these stories from one of the two splits and retrain."
    if config.min_gain >= 0 and all(change.gain == change.low == change.high == 0 for change in differences.values()):
        reason = (
            f"{names['challenger']} and {names['incumbent']} have the same scores on every story: "
            "there is nothing to gain."
        )
        return "keep", reason, "Change the data or the training, then retrain."
    return None


def _primary(change: Difference, config: GateConfig, stories: int) -> Check:
    score = SCORES[change.name]
    advice = (
        f"The gain may be chance: {stories} stories are not enough to tell. Train longer, or score more test stories."
        if change.high > config.min_gain
        else "The primary score did not improve. Look at the story pages and the scores by kind before you train again."
    )
    required = f"an interval above {score.text(config.min_gain, signed=True)}"
    return Check(
        config.primary, change.low > config.min_gain, _gain(score, change, config.confidence), required, advice
    )


def _controls(card: Scorecard, primary: str, config: GateConfig) -> Iterable[Check]:
    """What decides must come from the pictures: little of the primary score may remain where they are wrong.

    A control of fewer than `gate.min_stories` stories decides nothing, and a score of 0 has nothing to lose.
    """
    text, settings = SCORES[primary].text, (config.confidence, config.resamples, config.seed)
    for name, wrong in control.CONTROLS.items():
        one = control.controlled(card, name, *settings).get(primary)
        if name == "shuffled" or (one is None and name != control.REFERENCE):
            continue
        if one is None or one.stories < config.min_stories:
            found, required = f"not known: {one.stories if one else 0} stories have it", f"{config.min_stories} stories"
            yield Check(f"control of {titled(config.primary)}, {name}", True, found, f"{required} to tell", "")
            continue
        found = (
            f"{text(one.controlled)} ({config.confidence:.0%} interval {text(one.low)} to {text(one.high)}) of "
            f"{text(one.value)} remain {wrong}"
        )
        advice = (
            f"{titled(config.primary)} is text-only for this model, which gets much of it without the right pictures: look at "
            "its story pages for what it always says."
        )
        required = f"an upper bound under a third, {text(one.value * control.SHARE)}"
        yield Check(
            f"control of {titled(config.primary)}, {name}", one.depends or one.value == 0, found, required, advice
        )


def _floor(decoding: str, change: Difference, config: GateConfig) -> Iterable[Check]:
    """Most answers must be usable: beating a base model that writes nothing usable is not enough."""
    if change.a < config.min_validity:
        advice = "Too many answers break a rule (the chart of rules shows which): train longer, or on more data."
        text = SCORES[VALID].text
        required = f"at least {text(config.min_validity)} (`gate.min_validity`)"
        yield Check(f"share of valid answers ({decoding} decoding)", False, text(change.a), required, advice)


def _guards(
    changes: Mapping[str, tuple[str, Difference]], undefined: Collection[str], config: GateConfig
) -> Iterable[Check]:
    """A check for each guarded score: the change itself must be within the tolerance, not its interval.

    `changes` holds the decoding and the difference of each score that both models have; `undefined` the names of those
    that only the incumbent has.
    """
    for score in GUARDED:
        most = getattr(config, str(score.guard))
        advice = (
            f"Find the stories where {score.title} got worse in the per-story table; "
            f"`gate.{score.guard}` sets how much is accepted."
        )
        if score.name in changes:
            decoding, change = changes[score.name]
            worse = "rise" if score.better == "lower" else "fall"
            loss = change.gain if score.better == "lower" else -change.gain
            # Rounded, because 0.96 - 0.95 is 0.010000000000000009 in floating point and must pass a tolerance of 0.01.
            passed, found = round(loss, 12) <= most, _gain(score, change, config.confidence)
            yield Check(f"{decoding}/{score.name}", passed, found, f"a {worse} of at most {score.text(most)}", advice)
        elif score.name in undefined:
            decoding = config.primary.partition("/")[0]
            found = f"undefined, because its stories have no {score.formula.unit}"
            yield Check(f"{decoding}/{score.name}", False, found, f"stories with {score.formula.unit}", advice)


def _shares(changes: Mapping[str, Difference], decoding: str, config: GateConfig) -> Iterable[Check]:
    """Checks of what may change by a share of its value only: a model that says less is wrong less often.

    `changes` are those from the model that the challenger comes of, or else from the incumbent.
    """
    guards: tuple[tuple[str, str, float | None, bool], ...] = (
        (RECALL, "recall_tolerance", config.recall_tolerance, False),
        (WORDS, "length_tolerance", config.length_tolerance, True),
    )
    for name, key, most, both in guards:
        if most is None or name not in changes:
            continue
        change, score = changes[name], SCORES[name]
        low, high = change.b * (1 - most), change.b * (1 + most)
        passed = round(low, 12) <= round(change.a, 12) and (not both or round(change.a, 12) <= round(high, 12))
        required = f"at least {score.text(low)}" + (f" and at most {score.text(high)}" if both else "")
        advice = f"Look at the stories where {score.title} changed; `gate.{key}` sets how much is accepted."
        yield Check(f"{decoding}/{name}", passed, _gain(score, change, config.confidence), required, advice)


def _gain(score: Score, change: Difference, confidence: float) -> str:
    """`+0.052 (0.410 to 0.462; 95% interval +0.021 to +0.080)`"""
    gain, low, high = (score.text(value, signed=True) for value in (change.gain, change.low, change.high))
    return f"{gain} ({score.text(change.b)} to {score.text(change.a)}; {confidence:.0%} interval {low} to {high})"
