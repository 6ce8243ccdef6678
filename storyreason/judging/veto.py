"""What a judge may do in the gate: hold back a version whose stories it likes less than those of the incumbent.

It never promotes: a version that the gate keeps is not judged at all, and one that a judge likes passes as it would without.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from storyreason.dataset import Example
from storyreason.format import answer
from storyreason.judging.agreement import preference, report
from storyreason.judging.asking import Candidate, Judgement
from storyreason.scoring import Decision, scorecard
from storyreason.scoring.config import GateConfig, JudgeConfig
from storyreason.scoring.gate import Check

NAME = "a judge's preference"


def candidates(examples: Iterable[Example], ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[Candidate]:
    """The challenger's stories, each beside the incumbent's of the same images, from both models' answers by story."""
    return [
        Candidate(
            one.story_id,
            one.story_id,
            one.images,
            answer.read(ours.get(one.story_id, "")).story_text,
            answer.read(theirs.get(one.story_id, "")).story_text,
        )
        for one in examples
    ]


def check(asked: Sequence[Candidate], judgements: Sequence[Judgement], judge: JudgeConfig, gate: GateConfig) -> Check:
    """Whether the incumbent's stories are preferred, beyond chance: the bootstrap interval (over films) of the mean preference
    (1: the challenger's in all comparisons, -1: the incumbent's) lies below 0.

    Passed, and said to be so, where that cannot be told: too few stories were judged, or the judge contradicts itself.
    """
    by_story: dict[str, list[int]] = defaultdict(list)
    for one in judgements:
        if one.ratings and one.other:
            by_story[one.name].append(preference(one))
    values = np.asarray([fmean(found) for found in by_story.values()])
    agrees = report(asked, judgements).agrees_swapped or 0.0
    required = f"{judge.model} does not prefer the incumbent's stories beyond chance"
    if len(values) < gate.min_stories:
        found = f"not counted: {len(values)} of {len(asked)} stories were judged, and {gate.min_stories} are required"
        return Check(NAME, True, found, required, "")
    if agrees < judge.min_agreement:
        found = f"not counted: {agrees:.0%} of its preferences are the same when the stories change places"
        return Check(NAME, True, found, f"{judge.min_agreement:.0%} to count (`judge.min_agreement`)", "")
    means = [times @ values / times.sum(axis=1) for times in scorecard.draws([*by_story], gate.resamples, gate.seed)]
    rest = (1 - gate.confidence) / 2
    low, high = (float(one) for one in np.quantile(np.concatenate(means), [rest, 1 - rest]))
    found = (
        f"{values.mean():+.2f} ({gate.confidence:.0%} interval {low:+.2f} to {high:+.2f}) over {len(values)} stories, from -1 "
        f"(always the incumbent's) to +1; {agrees:.0%} the same when they change places"
    )
    advice = (
        "Read the stories that the judge likes less, beside the incumbent's; `judge.endpoint=` decides without a judge."
    )
    return Check(NAME, high >= 0, found, required, advice)


def held(decision: Decision, found: Check) -> Decision:
    """The decision with what the judge found, which turns a promotion into keeping the incumbent, and nothing else."""
    checks = (*decision.checks, found)
    if found.passed or not decision.promote:
        return replace(decision, checks=checks)
    reason = f"{found.name}: {found.found}, required: {found.required}."
    return replace(decision, verdict="keep", reason=reason, advice=found.advice, checks=checks)
