"""The scorecard: the scores of a model's answers, per story and overall, with bootstrap intervals.

It stores counts rather than scores, one row per story. Scores, intervals and the paired comparison of two models are all
computed from these rows, so a stored scorecard can be compared with one that is made a year later.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from storyreason.dataset import films
from storyreason.errors import ScoringError
from storyreason.scoring.catalogue import SCORES

FORMAT = 1
"""The version of the stored format."""
_CELLS = 8_000_000
"""The most draws held in memory while resampling, whatever the number of stories."""


@dataclass(frozen=True, eq=False)
class Scorecard:
    """`sums` is [stories, columns], float64; `story_ids` and `columns` name its rows and columns.

    `controls` are the same sums with something wrong on purpose, by the names of `control.CONTROLS`: what remains of a score
    there does not come from the pictures. An older scorecard has none.
    """

    story_ids: tuple[str, ...]
    columns: tuple[str, ...]
    sums: np.ndarray
    controls: "Mapping[str, Control]" = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Every score that is defined over all stories, by name (`strict/grounding/f1`)."""
        return _defined(_values(self, self._totals()))

    def intervals(
        self, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """The percentile bootstrap interval of every score in `metrics()`, as (low, high).

        Films are drawn with replacement, with all their stories, and the scores recomputed from their sums (Efron and
        Tibshirani 1993, chapters 8 and 13).
        """
        drawn = _values(self, self._resampled(resamples, seed))
        return {name: _interval(drawn[name], confidence) for name in self.metrics()}

    def table(self) -> list[dict[str, float | str]]:
        """A row for each story, in order: `story_id`, and every score that is defined for that story alone."""
        values = _values(self, dict(zip(self.columns, self.sums.T, strict=True)))
        names = [name for name in values if not np.isnan(values[name]).all()]
        rows: list[dict[str, float | str]] = []
        for i, story_id in enumerate(self.story_ids):
            scores = {name: float(values[name][i]) for name in names if not np.isnan(values[name][i])}
            rows.append({"story_id": story_id, **scores})
        return rows

    def only(self, story_ids: Sequence[str]) -> "Scorecard":
        """The scorecard of these of its stories, in this order, without controls."""
        place = {story_id: i for i, story_id in enumerate(self.story_ids)}
        return Scorecard(tuple(story_ids), self.columns, self.sums[[place[story_id] for story_id in story_ids]])

    def total(self, column: str) -> float:
        """The sum of a column over all stories, 0 if there is no such column."""
        return float(self.sums[:, self.columns.index(column)].sum()) if column in self.columns else 0.0

    def to_json(self) -> str:
        """The scorecard as JSON; `from_json` restores it exactly."""
        content: dict[str, Any] = {"format": FORMAT, "story_ids": self.story_ids, "columns": self.columns}
        content["sums"] = _plain(self.sums)
        if self.controls:
            content["controls"] = {name: one.content() for name, one in self.controls.items()}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Scorecard":
        """The scorecard that `to_json` wrote. Raises ScoringError if the text is not a scorecard of this version."""
        expected = f"expected a scorecard of format {FORMAT}: evaluate the model again to create one"
        try:
            content = json.loads(text)
            found = content["format"]
            if found != FORMAT:
                raise ScoringError(f"Found a scorecard of format {found}; {expected}.")
            controls = {name: Control.of(one) for name, one in content.get("controls", {}).items()}
            return Scorecard(*_table(content["story_ids"], content["columns"], content["sums"]), controls)
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ScoringError(f"The text cannot be read ({type(error).__name__}: {error}); {expected}.") from error

    def _totals(self) -> dict[str, np.ndarray]:
        return dict(zip(self.columns, self.sums.sum(0), strict=True))

    def _resampled(self, resamples: int, seed: int) -> dict[str, np.ndarray]:
        """The sum of each column in every resample: [resamples] each.

        The draws depend only on the seed and the stories' IDs. Two scorecards of the same stories get the same
        draws, which makes their comparison paired.
        """
        parts = [weights @ self.sums for weights in draws(self.story_ids, resamples, seed)]
        return dict(zip(self.columns, np.concatenate(parts).T, strict=True))


@dataclass(frozen=True, eq=False)
class Control:
    """A control of a scorecard. `instead` says, for each story that has one, what took the place of its own reference or
    frames; the stories without one are left out. `card` has the columns that compare boxes, in the order of `instead`."""

    instead: Mapping[str, str]
    card: Scorecard

    def content(self) -> dict[str, Any]:
        """As JSON values; `of` restores it exactly."""
        return {"instead": dict(self.instead), "columns": self.card.columns, "sums": _plain(self.card.sums)}

    @staticmethod
    def of(content: Mapping[str, Any]) -> "Control":
        """The control that `content` wrote. Raises KeyError, TypeError or ValueError if it is none."""
        instead = dict(content["instead"])
        return Control(instead, Scorecard(*_table(tuple(instead), content["columns"], content["sums"])))


def _plain(sums: np.ndarray) -> list[list[float]]:
    return [[int(x) if x == int(x) else x for x in row] for row in sums.tolist()]


def _table(
    ids: Sequence[str], columns: Sequence[str], sums: Sequence[Sequence[float]]
) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    return tuple(ids), tuple(columns), np.array(sums, float).reshape(len(ids), len(columns))


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference `gain = a - b` in a score, with its paired interval."""

    name: str
    a: float
    b: float
    gain: float
    low: float
    high: float

    @property
    def real(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def compare(
    a: Scorecard, b: Scorecard, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, Difference]:
    """The paired differences `a - b` of every score that both have, by name; both are resampled with the same draws.

    Raises ScoringError if the scorecards cover different stories.
    """
    b = _aligned(b, a)
    of_a, of_b = a.metrics(), b.metrics()
    drawn_a, drawn_b = _values(a, a._resampled(resamples, seed)), _values(b, b._resampled(resamples, seed))
    differences = {}
    for name in of_a:
        if name in of_b:
            low, high = _interval(drawn_a[name] - drawn_b[name], confidence)
            differences[name] = Difference(name, of_a[name], of_b[name], of_a[name] - of_b[name], low, high)
    return differences


def _aligned(card: Scorecard, other: Scorecard) -> Scorecard:
    """`card` with its rows in the order of `other`. Raises ScoringError if they cover different stories."""
    if card.story_ids == other.story_ids:
        return card
    missing, extra = set(other.story_ids) - set(card.story_ids), set(card.story_ids) - set(other.story_ids)
    if missing or extra:
        example = sorted(missing or extra)[0]
        raise ScoringError(
            f"The two scorecards cover different stories: {len(missing)} only in the first, {len(extra)} only in "
            f"the second (for example {example!r}). Score both models on the same test split."
        )
    place = {story_id: i for i, story_id in enumerate(card.story_ids)}
    rows = [place[story_id] for story_id in other.story_ids]
    return Scorecard(other.story_ids, card.columns, card.sums[rows], card.controls)


def draws(story_ids: Sequence[str], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each story is drawn in each resample: blocks of [resamples, stories], float64.

    Films are drawn, each with all its stories: two stories of one film share people, places and pictures, and say less than
    two of different films. The stories of a single film are drawn one by one, which says nothing about other films.
    """
    if not story_ids:
        raise ScoringError("There is no story to resample: score at least one.")
    of_film = films(story_ids)
    names = list(dict.fromkeys(of_film.values()))
    if len(names) == 1:
        of_film, names = {one: one for one in story_ids}, list(story_ids)
    place = {name: number for number, name in enumerate(names)}
    columns = [place[of_film[story_id]] for story_id in story_ids]
    generator, drawable = np.random.default_rng(seed), len(names)
    block = max(1, _CELLS // len(story_ids))
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = generator.integers(0, drawable, (count, drawable)) + np.arange(count)[:, None] * drawable
        times = np.bincount(drawn.ravel(), minlength=count * drawable).reshape(count, drawable).astype(float)
        yield times[:, columns]


def _values(card: Scorecard, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    present = set(card.columns)
    return {
        name: score.formula.value(sums) for name, score in SCORES.items() if present.issuperset(score.formula.columns)
    }


def _defined(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if not np.isnan(value)}


def _interval(drawn: np.ndarray, confidence: float) -> tuple[float, float]:
    """The central `confidence` interval over the resamples in which the score is defined."""
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(drawn[~np.isnan(drawn)], [tail, 100 - tail])
    return float(low), float(high)
