"""What a score is, and the formulas that compute one from sums of counts.

Every story contributes a row of counts ("columns"). A formula is a function of sums of columns: numpy arrays that all
have the same shape, either [] (all stories), [stories] or [resamples]. The same code thus scores the whole split, each
story, and every bootstrap resample. Where a score is undefined (a rate per mention when nothing is mentioned), the
formula returns NaN and the scorecard omits the score.

Numpy is imported inside the functions that compute, so that the catalogue can be imported without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

    Sums = Mapping[str, np.ndarray]

_TINY, _SMALL = 1e-15, 1e-9  # the COCO caption toolkit's guards against 0/0


@dataclass(frozen=True, slots=True)
class Formula:
    """A function of the sums of `columns`, with the formula as readable `text`; `unit` is the denominator of a rate."""

    columns: tuple[str, ...]
    function: Callable[..., np.ndarray]
    text: str
    unit: str = ""

    def value(self, sums: Sums) -> np.ndarray:
        """The score, in the shape of the sums; NaN where it is undefined."""
        return self.function(*(sums[column] for column in self.columns))


@dataclass(frozen=True, slots=True)
class Score:
    """A score. Its `name` is stable: MLflow metrics, stored scorecards and presets use it.

    - `better`: which direction is an improvement; None for a description such as a length.
    - `level`: headlines are shown first everywhere; main scores appear in the gate's report and in the terminal; details
      appear only in tables and in MLflow.
    - `guard`: the GateConfig key that limits how much the score may get worse.
    - `bar`: the chart that shows the score, and the label of its bar.
    """

    name: str
    title: str
    formula: Formula
    meaning: str
    source: str = "ours"
    better: Literal["higher", "lower"] | None = "higher"
    decimals: int = 3
    level: Literal["headline", "main", "detail"] = "detail"
    guard: str | None = None
    bar: tuple[str, str] | None = None

    def text(self, value: float, signed: bool = False) -> str:
        """A value of this score, formatted: `0.417`, `+0.012`, `3.40`."""
        return f"{value + 0.0:{'+' if signed else ''}.{self.decimals}f}"  # + 0.0 turns -0.0 into 0.0


def divide(part: np.ndarray, whole: np.ndarray, empty: np.ndarray | float) -> np.ndarray:
    """`part / whole`, or `empty` where the whole is 0; never warns."""
    import numpy as np

    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.where(whole == 0, empty, part / np.where(whole == 0, 1.0, whole))


def share(part: str, whole: str, other: str) -> Formula:
    """`part / whole`; 0/0 is 1 only if the `other` side is empty too, else 0: silence must not count as precision."""

    def function(p: np.ndarray, w: np.ndarray, o: np.ndarray) -> np.ndarray:
        return divide(p, w, (o == 0) * 1.0)

    return Formula((part, whole, other), function, f"{part} / {whole}")


def f1(part: str, predicted: str, reference: str) -> Formula:
    """The harmonic mean of precision and recall: `2 part / (predicted + reference)`, 1 where both are empty."""
    text = f"2 {part} / ({predicted} + {reference})"
    return Formula((part, predicted, reference), lambda p, a, b: divide(2 * p, a + b, 1.0), text)


def precision_recall_f1(part: str, predicted: str, reference: str) -> dict[str, Formula]:
    """The formulas of `f1`, `precision` and `recall`, by those names."""
    return {
        "f1": f1(part, predicted, reference),
        "precision": share(part, predicted, reference),
        "recall": share(part, reference, predicted),
    }


def harmonic(right: str, predicted: str, found: str, reference: str) -> Formula:
    """F1 of a precision `right / predicted` and a recall `found / reference` with different numerators; 1 where both
    sides are empty."""

    def function(p: np.ndarray, a: np.ndarray, r: np.ndarray, b: np.ndarray) -> np.ndarray:
        import numpy as np

        precision, recall = divide(p, a, 0.0), divide(r, b, 0.0)
        both_empty = (np.asarray(a) == 0) & (np.asarray(b) == 0)
        return np.where(both_empty, 1.0, divide(2 * precision * recall, precision + recall, 0.0))

    text = f"harmonic mean of {right} / {predicted} and {found} / {reference}"
    return Formula((right, predicted, found, reference), function, text)


def rate(count: str, unit: str, times: float = 1.0) -> Formula:
    """`times * count / unit`; undefined where the unit (stories, mentions, …) is 0."""
    text = f"{times:g} {count} / {unit}" if times != 1 else f"{count} / {unit}"
    return Formula((count, unit), lambda c, u: divide(times * c, u, float("nan")), text, unit.split("/")[-1])


def mean(count: str) -> Formula:
    """The mean over all stories of a score that is computed per story."""
    return Formula((count, "stories"), rate(count, "stories").function, "mean over the stories", "stories")


def bleu(n: int) -> Formula:
    """Corpus BLEU-n (Papineni et al. 2002) with the smoothing constants of the COCO caption toolkit."""

    def function(words: np.ndarray, reference_words: np.ndarray, *counts: np.ndarray) -> np.ndarray:
        import numpy as np

        product: np.ndarray | float = 1.0
        for right, runs in zip(counts[:n], counts[n:], strict=True):
            product = product * (right + _TINY) / (runs + _SMALL)
        length = (words + _TINY) / (reference_words + _SMALL)
        brevity = np.where(length < 1, np.exp(1 - 1 / np.minimum(length, 1)), 1.0)
        score: np.ndarray = np.asarray(product) ** (1 / n) * brevity
        return score

    columns = ["words", "reference_words"]
    columns += [f"{what}_{k}" for what in ("right", "ngrams") for k in range(1, n + 1)]
    text = "geometric mean of the n-gram precisions over all stories, times the brevity penalty"
    return Formula(tuple(f"paper/bleu/{column}" for column in columns), function, text)


def meteor() -> Formula:
    """METEOR 1.5 (Denkowski and Lavie 2014) with its English parameters, from statistics summed over stories."""

    def function(
        right: np.ndarray,
        words: np.ndarray,
        found: np.ndarray,
        reference: np.ndarray,
        chunks: np.ndarray,
        matches: np.ndarray,
    ) -> np.ndarray:
        alpha, beta, gamma = 0.85, 0.2, 0.6
        precision, recall = divide(right, words, 0.0), divide(found, reference, 0.0)
        mean = divide(precision * recall, alpha * precision + (1 - alpha) * recall, 0.0)
        return mean * (1 - gamma * divide(chunks, matches, 0.0) ** beta)

    columns = ("right", "words", "found", "reference_words", "chunks", "matches")
    text = "weighted mean of unigram precision and recall, times the fragmentation penalty"
    return Formula(tuple(f"paper/meteor/{column}" for column in columns), function, text)
