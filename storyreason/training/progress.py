"""`progress.jsonl`: what a training process reports, one JSON object per line, one line for every optimizer step.

{"event": "start", "attempt": "…", "steps": 300, "trainable": 2600000, "frozen": 0, "distributed_type": "NO", …}
{"event": "features", "step": 0, "pictures": 2400, "bytes": 19000000, "wanted_bytes": 19000000}
{"event": "sharded", "step": 0, "parts": {"Qwen2_5_VLDecoderLayer": 28, …}}
{"event": "step", "step": 1, "steps": 300, "epoch": 0.01, "loss": 4.1, "learning_rate": 0.0001, …}
{"event": "checkpoint", "step": 30, "path": "checkpoint-30"}
{"event": "validation", "step": 30, "loss": 1.2}
{"event": "round", "step": 30, "round": 3, "reward": 0.61, "identity": 0.52, …, "dropped": 4, "failed": 1}
{"event": "end", "step": 300, "result": "result"}
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyreason import runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "progress.jsonl"
IMPROVING = ("margin", "accuracy", "kl", "clipped")
"""What a step that improves a model reports besides its loss: the first two of preferences, the others of rewards."""
CURVES = {"step": ("training", "#2f6f8f"), "validation": ("validation", "#d98032")}
"""By event, the name and the colour of its loss curve."""


def read(work: Path) -> list[dict[str, Any]]:
    """All complete lines of a work folder's progress; a line that is still being written is left out."""
    return read_from(work, 0)[0]


def read_from(work: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The complete lines after `offset` bytes, and the offset after them."""
    try:
        with (work / FILE).open("rb") as file:
            file.seek(offset)
            lines = [line for line in file if line.endswith(b"\n")]
    except FileNotFoundError:
        return [], offset
    return [json.loads(line) for line in lines], offset + sum(map(len, lines))


def holds(work: Path, attempt: str) -> bool:
    """Whether an attempt has begun to write."""
    try:
        return attempt in (work / FILE).read_text()
    except FileNotFoundError:
        return False


class ProgressWriter:
    """Writes the lines of one attempt. A muted one (in all processes but the first) writes nothing."""

    def __init__(self, work: Path, muted: bool = False) -> None:
        self.path = work / FILE
        self.muted = muted

    def begin(self, attempt: str, *, step: int, **start: Any) -> None:
        """Drop the lines after the step that the attempt resumes from, and write its first line, in one rename."""
        if self.muted:
            return
        kept = [line for line in read(self.path.parent) if line.get("step", 0) <= step and line["event"] != "end"]
        kept.append({"event": "start", "attempt": attempt, "step": step, "time": time.time(), **start})
        runs.write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, event: str, **values: Any) -> None:
        if self.muted:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"event": event, **values, "time": time.time()}) + "\n")


def draw_losses(lines: Iterable[dict[str, Any]]) -> "Figure":
    """The training and validation losses by step, as one figure of 7 x 3 inches."""
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
