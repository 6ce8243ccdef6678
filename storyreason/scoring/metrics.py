"""What a score is, and how it is computed from sums: the same few lines give the whole, one story, and every resample.

Every story contributes a row of counts ("columns"). A formula is a function of the columns' sums: numpy arrays of any one
shape, be it one number, one per story, or one per bootstrap resample. Where a score is undefined (a rate per mention of a
model that mentions nothing) it gives NaN, and the scorecard leaves the score out.

Numpy is imported by the functions that compute: the catalogue of scores, which only names them, does without it.
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
    """A function of the sums of `columns`, and the same as `text` for people; `unit` is what a rate is per, if it is one."""

    columns: tuple[str, ...]
    function: Callable[..., np.ndarray]
    text: str
    unit: str = ""

    def value(self, sums: Sums) -> np.ndarray:
        """The score, of the shape that the sums have; NaN where it is undefined."""
        return self.function(*(sums[column] for column in self.columns))


@dataclass(frozen=True, slots=True)
class Score:
    """One score. Its `name` is stable: it is the metric's name in MLflow, on stored scorecards and in presets.

    `better` is None where neither more nor less is better (a length, say). `level`: headlines come first everywhere,
    main scores stand in the gate's report and in the terminal, details in tables and MLflow only. `guard` is the key of
    GateConfig that holds how much the score may get worse; `bar` is the chart that shows the score, and the bar's label.
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
        """A value of this score as people read it: `0.417`, `+0.012`, `3.40`."""
        return f"{value + 0.0:{'+' if signed else ''}.{self.decimals}f}"  # + 0.0: no minus sign before a zero


def divide(part: np.ndarray, whole: np.ndarray, empty: np.ndarray | float) -> np.ndarray:
    """`part / whole`, and `empty` where the whole is 0; no warning."""
    import numpy as np

    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.where(whole == 0, empty, part / np.where(whole == 0, 1.0, whole))


def share(part: str, whole: str, other: str) -> Formula:
    """`part / whole`; 0/0 is 1 only where the `other` side is empty too, else 0: silence is not precise."""

    def function(p: np.ndarray, w: np.ndarray, o: np.ndarray) -> np.ndarray:
        return divide(p, w, (o == 0) * 1.0)

    return Formula((part, whole, other), function, f"{part} / {whole}")


def f1(part: str, predicted: str, reference: str) -> Formula:
    """The harmonic mean of precision and recall: `2 part / (predicted + reference)`, 1 where both are empty."""
    text = f"2 {part} / ({predicted} + {reference})"
    return Formula((part, predicted, reference), lambda p, a, b: divide(2 * p, a + b, 1.0), text)


def precision_recall_f1(part: str, predicted: str, reference: str) -> dict[str, Formula]:
    """The three of them, under `f1`, `precision` and `recall`."""
    return {
        "f1": f1(part, predicted, reference),
        "precision": share(part, predicted, reference),
        "recall": share(part, reference, predicted),
    }


def harmonic(right: str, predicted: str, found: str, reference: str) -> Formula:
    """F1 of a precision and a recall that share no numerator: `right / predicted` and `found / reference`; 1 where both
    sides are empty."""

    def function(p: np.ndarray, a: np.ndarray, r: np.ndarray, b: np.ndarray) -> np.ndarray:
        import numpy as np

        precision, recall = divide(p, a, 0.0), divide(r, b, 0.0)
        both_empty = (np.asarray(a) == 0) & (np.asarray(b) == 0)
        return np.where(both_empty, 1.0, divide(2 * precision * recall, precision + recall, 0.0))

    text = f"harmonic mean of {right} / {predicted} and {found} / {reference}"
    return Formula((right, predicted, found, reference), function, text)


def rate(count: str, unit: str, times: float = 1.0) -> Formula:
    """`times * count / unit`; undefined where there is no unit (stories, mentions, …)."""
    text = f"{times:g} {count} / {unit}" if times != 1 else f"{count} / {unit}"
    return Formula((count, unit), lambda c, u: divide(times * c, u, float("nan")), text, unit.split("/")[-1])


def mean(count: str) -> Formula:
    """The mean over the stories of a score that each story has."""
    return Formula((count, "stories"), rate(count, "stories").function, "mean over the stories", "stories")


def bleu(n: int) -> Formula:
    """BLEU of one to `n` words over all stories, with the COCO caption toolkit's smoothing (Papineni et al. 2002)."""

    def function(words: np.ndarray, reference_words: np.ndarray, *counts: np.ndarray) -> np.ndarray:
        import numpy as np

        product: np.ndarray | float = 1.0
        for right, runs in zip(counts[:n], counts[n:], strict=True):
            product = product * (right + _TINY) / (runs + _SMALL)
        length = (words + _TINY) / (reference_words + _SMALL)
        return np.asarray(product) ** (1 / n) * np.where(length < 1, np.exp(1 - 1 / np.minimum(length, 1)), 1.0)

    columns = ["words", "reference_words"]
    columns += [f"{what}_{k}" for what in ("right", "ngrams") for k in range(1, n + 1)]
    text = "geometric mean of the n-gram precisions over all stories, times the brevity penalty"
    return Formula(tuple(f"paper/bleu/{column}" for column in columns), function, text)


def meteor() -> Formula:
    """METEOR 1.5 with its weights for English, over the statistics of all stories (Denkowski and Lavie 2014)."""

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
