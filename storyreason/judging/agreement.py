"""What a judge found, and how far it agrees with itself, with planted faults, and with people."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import numpy as np

from storyreason.judging.asking import Candidate, Judgement
from storyreason.judging.rubric import RUBRICS

Rated = Mapping[str, Mapping[str, Mapping[str, float]]]
"""People's ratings: by rater, story and rubric."""


@dataclass(frozen=True)
class Report:
    """What a judge found. None where there is nothing to compute it from."""

    stories: int
    judged: int
    """Comparisons that count."""
    refused: dict[str, int]
    """How many comparisons have no ratings, by the reason."""
    ratings: dict[str, float | None]
    """The mean rating of the predictions on each rubric, 1 to 5."""
    other: dict[str, float | None]
    """The same of the stories that they are compared with."""
    preferred: dict[str, float] | None
    """The shares of comparisons that prefer the prediction, neither, and the other story."""
    agrees_swapped: float | None
    """The share of comparisons that prefer the same story when the two change places."""
    agrees_repeated: float | None
    """The share that prefer the same story when the same is asked again."""
    first: float | None
    """The share of preferences for the story that came first; 0.5 without a bias."""
    planted: dict[int, dict[str, float]]
    """The mean rating on each rubric, by the number of planted faults."""
    correlation: dict[str, float | None]
    """Spearman's rank correlation of each rubric, and of their mean (`all`), with the number of planted faults."""
    alpha: dict[str, float | None]
    """Krippendorff's alpha of the judge and people's ratings on each rubric over the judged stories, interval data; empty without
    ratings."""


def report(candidates: Iterable[Candidate], judgements: Sequence[Judgement], rated: Rated | None = None) -> Report:
    """What comparisons of candidates say. Those without faults on purpose are the predictions."""
    planted = {one.name: one.planted for one in candidates}
    read = [one for one in judgements if one.ratings and one.other]
    told = [one for one in read if planted[one.name] is None]
    refused: dict[str, int] = defaultdict(int)
    for one in judgements:
        if one.refused:
            refused[one.refused] += 1
    preferences = [preference(one) for one in told]
    biased = [(liked > 0) is not one.swapped for one in read if (liked := preference(one))]
    return Report(
        stories=sum(faults is None for faults in planted.values()),
        judged=len(read),
        refused=dict(refused),
        ratings={name: _mean(one.ratings[name] for one in told if one.ratings) for name in RUBRICS},
        other={name: _mean(one.other[name] for one in told if one.other) for name in RUBRICS},
        preferred=_shares(preferences),
        agrees_swapped=_agreement(read, lambda one: (one.name, one.repeat)),
        agrees_repeated=_agreement(read, lambda one: (one.name, one.swapped)),
        first=_mean(biased),
        planted=_by_faults(read, planted),
        correlation=_correlations(read, planted),
        alpha=_alphas(told, rated) if rated else {},
    )


def preference(one: Judgement) -> int:
    """1 if the candidate is rated higher over all rubrics, -1 if the other story is, 0 for neither."""
    assert one.ratings and one.other
    gain = sum(one.ratings.values()) - sum(one.other.values())
    return (gain > 0) - (gain < 0)


def _shares(preferences: Sequence[int]) -> dict[str, float] | None:
    if not preferences:
        return None
    return {
        name: preferences.count(sign) / len(preferences)
        for name, sign in (("prediction", 1), ("neither", 0), ("other", -1))
    }


def _agreement(read: Sequence[Judgement], key: Callable[[Judgement], object]) -> float | None:
    """The share of pairs of comparisons with the same key that prefer the same story."""
    groups: dict[object, list[int]] = defaultdict(list)
    for one in read:
        groups[key(one)].append(preference(one))
    return _mean(found[0] == found[1] for found in groups.values() if len(found) == 2)


def _by_faults(read: Sequence[Judgement], planted: Mapping[str, int | None]) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, list[int]]] = {}
    for one in read:
        faults = planted[one.name]
        if faults is not None and one.ratings:
            for name, rating in one.ratings.items():
                found.setdefault(faults, {}).setdefault(name, []).append(rating)
    return {faults: {name: fmean(all_) for name, all_ in found[faults].items()} for faults in sorted(found)}


def _correlations(read: Sequence[Judgement], planted: Mapping[str, int | None]) -> dict[str, float | None]:
    """Over the stories with planted faults: each one's mean over its comparisons against how many faults it has."""
    from scipy.stats import spearmanr

    means = {name: rated for name, rated in _by_story(read).items() if planted[name] is not None}
    counts = [planted[name] for name in means]
    found: dict[str, float | None] = {}
    for rubric in (*RUBRICS, "all"):
        values = [fmean(rated.values()) if rubric == "all" else rated[rubric] for rated in means.values()]
        told = len(set(values)) > 1 and len(set(counts)) > 1
        found[rubric] = float(spearmanr(counts, values).statistic) if told else None
    return found


def _alphas(told: Sequence[Judgement], rated: Rated) -> dict[str, float | None]:
    import krippendorff

    ours = _by_story(told)
    stories = sorted(ours)  # what people think of others would drown how far the judge agrees with them
    found: dict[str, float | None] = {}
    for rubric in RUBRICS:
        rows = [[one.get(story, {}).get(rubric, np.nan) for story in stories] for one in (ours, *rated.values())]
        data = np.asarray(rows, float)
        together = data[:, (~np.isnan(data)).sum(axis=0) > 1]
        told_apart = len(np.unique(together[~np.isnan(together)])) > 1
        found[rubric] = float(krippendorff.alpha(data, level_of_measurement="interval")) if told_apart else None
    return found


def _by_story(read: Sequence[Judgement]) -> dict[str, dict[str, float]]:
    """The mean of each candidate's ratings over its comparisons, by its name and rubric."""
    found: dict[str, dict[str, list[int]]] = {}
    for one, rubric in product(read, RUBRICS):
        if one.ratings:
            found.setdefault(one.name, {}).setdefault(rubric, []).append(one.ratings[rubric])
    return {name: {rubric: fmean(all_) for rubric, all_ in rated.items()} for name, rated in found.items()}


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return fmean(listed) if listed else None
