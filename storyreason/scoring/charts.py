"""Charts of scores, with models side by side and their intervals."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from storyreason.scoring.catalogue import SCORES
from storyreason.scoring.scorecard import Scorecard

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#2f6f8f", "#d98032", "#7a9e4d", "#8a5fa8")

CHARTS = {
    "grounding_by_kind": "Boxes: F1 at IoU 0.5",
    "pronouns_grounded": "Share of pronouns that stand in a tag",
    "persistence": "Share of entities in five images or more",
    "rules": "Share of answers that keep each rule",
}
"""The title of each chart. `Score.bar` in the catalogue says which scores it shows."""


def charts(cards: Mapping[str, Scorecard]) -> dict[str, "Figure"]:
    """A figure for each of CHARTS, with a bar for each model (`cards` by model name) and its 95 % interval as a line.

    A score that no model has is omitted.
    """
    metrics = {name: card.metrics() for name, card in cards.items()}
    intervals = {name: card.intervals() for name, card in cards.items()}
    return {chart: _draw(title, _bars(chart), metrics, intervals) for chart, title in CHARTS.items()}


def _bars(chart: str) -> dict[str, str]:
    """The label of each bar, and the name of the score that it shows."""
    return {score.bar[1]: name for name, score in SCORES.items() if score.bar and score.bar[0] == chart}


def _draw(
    title: str,
    bars: Mapping[str, str],
    metrics: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]],
) -> "Figure":
    from matplotlib.figure import Figure

    shown = [label for label, score in bars.items() if any(score in of_model for of_model in metrics.values())]
    thick = 0.8 / max(1, len(metrics))
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(shown) * max(1, len(metrics)) ** 0.5), layout="constrained")
    axes = figure.subplots()
    for number, (model, of_model) in enumerate(metrics.items()):
        rows = [(row, bars[label]) for row, label in enumerate(shown) if bars[label] in of_model]
        places = [row + (number - (len(metrics) - 1) / 2) * thick for row, _ in rows]
        values = [of_model[score] for _, score in rows]
        whiskers = _whiskers(values, [intervals[model][score] for _, score in rows])
        colour = _COLOURS[number % len(_COLOURS)]
        axes.barh(places, values, thick * 0.9, color=colour, label=model)
        axes.errorbar(values, places, xerr=whiskers, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
    axes.set_yticks(range(len(shown)), shown)
    axes.invert_yaxis()
    axes.margins(y=0.02)
    axes.set_xlim(0, 1.02)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(metrics), frameon=False)
    return figure


def _whiskers(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> list[list[float]]:
    """How far each interval extends below and above its value; 0 where a percentile interval excludes the value."""
    below = [max(0.0, value - low) for value, (low, _) in zip(values, intervals, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(values, intervals, strict=True)]
    return [below, above]
