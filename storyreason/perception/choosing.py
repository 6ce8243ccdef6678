"""Which frames of a scene are kept: sharp ones that differ, without the bars around them.

Of a video, time is divided so that a scene has at most a few candidates, each the sharpest of its stretch: a long scene takes
no more memory than a short one. The sharpest candidate is kept, then those that differ most from the kept ones.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from storyreason.perception.video import Seen

CANDIDATES = 4
"""Candidates of a scene, for each frame that may be kept."""
PLAIN = 4.0
"""The standard deviation, of 255, below which a picture shows nothing: black, white, or one colour."""
BLURRED = 0.4
"""The share of the scene's best sharpness below which a frame is blurred."""
CELLS, CHANGED, ALIKE = 16, 16, 0.04
"""Two frames are alike if in less than this share of 16 x 16 cells a colour differs by more than 16 of 255."""
RECENT = 8
"""Kept frames with which a new one is compared, those of earlier scenes included."""
DARK = 32
"""The value, of 255, up to which a bar is black: compression leaves traces in it."""

LEFT_OUT = {
    "plain": "black, white or one colour",
    "blurred": "blurred",
    "alike": "near-duplicates",
    "surplus": "less sharp than their neighbours, or more than a scene may have",
}
"""Why frames are left out, by name."""


@dataclass(frozen=True)
class Kept:
    """A frame that is kept. `box` is what is left of it without bars: `x1,y1,x2,y2` as shares of its size."""

    scene: int
    seen: Seen
    box: tuple[float, float, float, float]


@dataclass
class _Candidate:
    seen: Seen
    sharpness: float
    contrast: float
    cells: np.ndarray


class Chooser:
    """Chooses the frames of a film. `limit` is how many a scene may have; None keeps all that differ."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._recent: deque[np.ndarray] = deque(maxlen=RECENT)
        self.left_out: Counter[str] = Counter()
        """How many frames, by reason."""
        self.scenes = 0

    def kept(self, seen: Iterable[tuple[int, Seen]]) -> Iterator[Kept]:
        """The frames to keep, scene by scene, in order."""
        for scene, parts in groupby(seen, key=lambda pair: pair[0]):
            self.scenes += 1
            candidates, brightest = self._candidates(one for _, one in parts)
            boxes = {shape: bars(light) for shape, light in brightest.items()}
            yield from (Kept(scene, one, boxes[one.small.shape]) for one in self._chosen(candidates))

    def _candidates(self, scene: Iterable[Seen]) -> tuple[list[_Candidate], dict[tuple[int, ...], np.ndarray]]:
        """The sharpest frame of each stretch, and how bright each pixel gets, of shape [height, width].

        The latter for each shape of small pictures: subfolders may have pictures of several, with bars of their own.
        """
        found: list[_Candidate] = []
        brightest: dict[tuple[int, ...], np.ndarray] = {}
        most, stretch, start = (self._limit or 0) * CANDIDATES, 1, 0
        for at, seen in enumerate(scene):
            light = seen.small.max(axis=2)
            brightest[seen.small.shape] = np.maximum(brightest.get(seen.small.shape, light), light)
            new = _candidate(seen)
            if found and at < start + stretch:
                found[-1] = self._sharper(found[-1], new)
                continue
            if most and len(found) == most:
                # Twice as long stretches: of each two neighbours the sharper.
                found = [self._sharper(*found[place : place + 2]) for place in range(0, most, 2)]
                stretch *= 2
            found.append(new)
            start = at
        return found, brightest

    def _sharper(self, one: _Candidate, other: _Candidate) -> _Candidate:
        self.left_out["surplus"] += 1
        return one if one.sharpness >= other.sharpness else other

    def _chosen(self, candidates: list[_Candidate]) -> list[Seen]:
        showing = [one for one in candidates if one.contrast >= PLAIN]
        self.left_out["plain"] += len(candidates) - len(showing)
        best = max((one.sharpness for one in showing), default=0.0)
        sharp = [one for one in showing if self._limit is None or one.sharpness >= BLURRED * best]
        self.left_out["blurred"] += len(showing) - len(sharp)
        kept = self._differing(sharp)
        self._recent.extend(one.cells for one in kept)
        return [one.seen for one in kept]

    def _differing(self, sharp: list[_Candidate]) -> list[_Candidate]:
        """The sharpest, then again and again the one that differs most from those kept; near-duplicates are left out.

        Without a limit, all that differ from those before them.
        """
        kept: list[_Candidate] = []
        if self._limit is None:
            for one in sharp:
                before = [*self._recent, *(other.cells for other in kept[-RECENT:])]
                if all(change(one.cells, cells) >= ALIKE for cells in before):
                    kept.append(one)
            self.left_out["alike"] += len(sharp) - len(kept)
            return kept
        least = {
            at: min((change(one.cells, cells) for cells in self._recent), default=1.0) for at, one in enumerate(sharp)
        }
        chosen: list[int] = []
        while differ := {at: much for at, much in least.items() if much >= ALIKE and at not in chosen}:
            if len(chosen) == self._limit:
                self.left_out["surplus"] += len(differ)
                break
            best = max(differ, key=lambda at: (differ[at] if chosen else 0, sharp[at].sharpness, -at))
            chosen.append(best)
            least = {at: min(much, change(sharp[at].cells, sharp[best].cells)) for at, much in least.items()}
        self.left_out["alike"] += sum(much < ALIKE for at, much in least.items() if at not in chosen)
        return [sharp[at] for at in sorted(chosen)]


def _candidate(seen: Seen) -> _Candidate:
    import cv2

    grey = cv2.cvtColor(seen.small, cv2.COLOR_BGR2GRAY)
    cells = cv2.resize(seen.small, (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.int16)
    return _Candidate(seen, float(cv2.Laplacian(grey, cv2.CV_32F).var()), float(grey.std()), cells)


def change(one: np.ndarray, other: np.ndarray) -> float:
    """The share of cells in which two pictures differ, as cells of shape [16, 16, 3]."""
    return float((np.abs(one - other).max(axis=2) > CHANGED).mean())


def bars(brightest: np.ndarray) -> tuple[float, float, float, float]:
    """What is left of a picture without black bars, as shares of its size.

    `brightest` is how bright each pixel gets in a scene, of shape [height, width]. Bars are on both sides, alike, and take at
    most a third each; a dark room has none.
    """
    x1, x2 = _edges(brightest.max(axis=0))
    y1, y2 = _edges(brightest.max(axis=1))
    return x1, y1, x2, y2


def _edges(line: np.ndarray) -> tuple[float, float]:
    lit = np.flatnonzero(line > DARK)
    if not len(lit):
        return 0.0, 1.0
    before, after = int(lit[0]), len(line) - 1 - int(lit[-1])
    bar = min(before, after)
    if bar == 0 or max(before, after) - bar > 0.05 * len(line) or bar > len(line) / 3:
        return 0.0, 1.0
    return bar / len(line), 1 - bar / len(line)
