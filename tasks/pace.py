"""How long a retraining still takes, from what its steps took before in this checkout."""

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from storyreason import runs
from tasks.progress import Progress, stopwatch

ORDER = (
    "pull", "train", "improve", "register", "evaluate base", "evaluate supervised", "evaluate challenger",
    "evaluate champion", "compare", "gate", "deploy", "tell",
)  # fmt: skip
"""The steps of a retraining, as its clock names them, in order."""
KEY = "retraining"
"""The key of the artifact in Prefect that says how long a retraining still takes."""
FILE = "durations.jsonl"
LAST = 5
"""How many of the last durations of a step are looked at; their median is what it takes."""
COMPUTED = 1.0
"""Seconds: a step that took less was taken from the cache, and says nothing about one that computes."""


class Clock:
    """Measures the steps of one retraining, remembers what they took, and says before each how long the rest takes."""

    def __init__(self, preset: str, until: str, seconds: dict[str, float]) -> None:
        self._preset, self._seconds = preset, seconds
        self._steps = ORDER[: _last(until) + 1]
        self._took = typical(preset)
        self._started = time.monotonic()
        self._progress = Progress(KEY, "how far the retraining is") if self._took else None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure one step; it counts for later runs only if it succeeds."""
        self._announce(name)
        with stopwatch(self._seconds, name):
            yield
        remember(self._preset, name, self._seconds[name])

    def _announce(self, name: str) -> None:
        left = self.left(name)
        if self._progress is None or not left:
            return
        gone = time.monotonic() - self._started
        at = time.strftime("%H:%M", time.localtime(time.time() + left))
        usual = f"{spoken(self._took[name])} as a rule" if name in self._took else "not timed before"
        line = f"{name}: {usual}; {spoken(left)} until all is done, at {at}"
        self._progress.report(int(gone), int(gone + left) + 1, line, at_once=True)

    def left(self, name: str) -> float:
        """Seconds that a step and those after it take as a rule; 0 if nothing is known."""
        return sum(self._took.get(step, 0) for step in self._steps[self._steps.index(name) :])


def typical(preset: str) -> dict[str, float]:
    """What each step of a preset takes, in seconds: the median of the last times that it computed."""
    times: dict[str, list[float]] = {}
    for line in _lines():
        if line.get("preset") == preset and line["seconds"] >= COMPUTED:
            times.setdefault(line["step"], []).append(line["seconds"])
    return {step: statistics.median(found[-LAST:]) for step, found in times.items()}


def remember(preset: str, step: str, seconds: float) -> None:
    """Append what a step took to `runs/durations.jsonl`."""
    line = {"preset": preset, "step": step, "seconds": seconds, "ended": int(time.time())}
    with (runs.root() / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def spoken(seconds: float) -> str:
    """A duration as people say it: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _last(until: str) -> int:
    """The place of the last step that runs until this one."""
    names = {"evaluate": "compare", "deploy": "tell"}
    return ORDER.index(names.get(until, until))


def _lines() -> Iterator[dict[str, Any]]:
    """What was remembered; a line that a killed run left unfinished is passed over."""
    try:
        text = (runs.root() / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    for line in text.split("\n"):
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
