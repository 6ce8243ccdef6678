"""A training's loss as a picture, from the lines that the training process leaves in `progress.jsonl`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = {"step": ("training", "#2f6f8f"), "validation": ("validation", "#d98032")}
"""By event of the lines, what its loss is called and drawn in."""


def draw(lines: Iterable[dict[str, Any]]) -> "Figure":
    """The losses by step, of training and of validation, in one figure of 7 x 3 inches."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    points: dict[str, dict[int, float]] = {}
    for line in lines:
        if line["event"] in CURVES:
            points.setdefault(line["event"], {})[line["step"]] = line["loss"]
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for event, (name, colour) in CURVES.items():
        if of_event := points.get(event):
            marker = "." if len(of_event) < 50 else ""
            axes.plot([*of_event], [*of_event.values()], color=colour, marker=marker, label=name)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Loss", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
