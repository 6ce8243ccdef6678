"""How a score is made of sums over stories, so that the same few lines give the whole, one story, and every resample.

Every story contributes a row of counts ("columns"). A metric is a formula over the columns' sums: numpy arrays of any
one shape, be it one number, one per story, or one per bootstrap resample. Where a score is undefined (a rate per
mention of a model that mentions nothing) the formula gives NaN, and the scorecard leaves the score out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Sums = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Metric:
    """A named score; it exists on scorecards that hold all its `columns`."""

    name: str
    columns: tuple[str, ...]
    formula: Callable[..., np.ndarray]

    def value(self, sums: Sums) -> np.ndarray:
        return self.formula(*(sums[column] for column in self.columns))


def divide(part: np.ndarray, whole: np.ndarray, empty: np.ndarray | float) -> np.ndarray:
    """`part / whole`, and `empty` where the whole is 0; no warning."""
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.where(whole == 0, empty, part / np.where(whole == 0, 1.0, whole))


def share(name: str, part: str, whole: str, other: str) -> Metric:
    """`part / whole`; 0/0 is 1 only where the `other` side is empty too, else 0: silence is no precision."""
    return Metric(name, (part, whole, other), lambda p, w, o: divide(p, w, np.where(np.asarray(o) == 0, 1.0, 0.0)))


def f1(name: str, part: str, predicted: str, reference: str) -> Metric:
    """The harmonic mean of precision and recall: `2 part / (predicted + reference)`, 1 where both are empty."""
    return Metric(name, (part, predicted, reference), lambda p, a, b: divide(2 * p, a + b, 1.0))


def precision_recall_f1(prefix: str, part: str, predicted: str, reference: str, ending: str = "") -> list[Metric]:
    """The three of them: `prefix/precision`, `prefix/recall`, `prefix/f1`, each with `ending`."""
    return [
        share(f"{prefix}/precision{ending}", part, predicted, reference),
        share(f"{prefix}/recall{ending}", part, reference, predicted),
        f1(f"{prefix}/f1{ending}", part, predicted, reference),
    ]


def rate(name: str, count: str, unit: str, times: float = 1.0) -> Metric:
    """`times * count / unit`; undefined where there is no unit (stories, mentions, …)."""
    return Metric(name, (count, unit), lambda c, u: divide(times * c, u, np.nan))
