"""Where films are cut: scenes of a stream of pictures.

Cuts are found by PySceneDetect: `AdaptiveDetector`, which compares each change with those around it, so that pans are none,
and `ThresholdDetector` for fades through black, which are cut where the next scene appears. What follows another cut decides
whether it is one: a flash ends with the picture that was there before it. Dissolves, and fades through white, are not found.

Pictures of a folder may be seconds apart: there, what surrounds a change says nothing, and each large change is a cut
(`ContentDetector`).
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from storyreason.perception.video import Seen

if TYPE_CHECKING:
    from scenedetect.detector import SceneDetector

SHORTEST = 1 / 3
"""Seconds of a scene, at least, and of a flash, at most."""
SAME = 0.4
"""A picture is the one before the change if it differs from it by less than this share of the change."""
BLACK = 6
"""The mean value, of 255, below which a picture is black: a fade has ended."""


def scenes(seen: Iterable[Seen], rate: float | None) -> Iterator[tuple[int, Seen]]:
    """Each picture with its scene, counted from 0. `rate` is that of a video, in pictures a second; None for pictures.

    A change of shape is a cut: pictures of two shapes cannot be compared. Holds about half a second of pictures, and decides as
    soon as these are there.
    """
    scene = -1
    for _, alike in groupby(seen, key=lambda one: one.small.shape):
        scene += 1
        for one, cut in _Cuts(rate).decided(alike):
            scene += cut
            yield scene, one


class _Cuts:
    """Finds the cuts among pictures of one shape."""

    def __init__(self, rate: float | None) -> None:
        from scenedetect.detectors import AdaptiveDetector, ContentDetector, ThresholdDetector

        self._rate = float(max(rate or 24, 1))
        self._detectors: list[SceneDetector] = [ContentDetector(min_scene_len=0)]
        self._shortest = self._held = 0
        self._found: set[int] = set()
        self._begun = self._flash = 0
        """Where the scene begins, and up to where the last flash goes."""
        self._before: np.ndarray | None = None
        if rate is None:
            return
        self._shortest = max(3, round(SHORTEST * self._rate))
        adaptive = AdaptiveDetector(min_scene_len=0)
        # Of a fade, the cut is the first picture after the black.
        fades = ThresholdDetector(BLACK, min_scene_len=0, fade_bias=1.0)
        self._detectors = [adaptive, fades]
        self._held = self._shortest + adaptive.event_buffer_length

    def decided(self, seen: Iterable[Seen]) -> Iterator[tuple[Seen, bool]]:
        """Each picture, and whether a scene begins with it."""
        waiting: deque[tuple[int, Seen]] = deque()
        for at, one in enumerate(seen):
            self._look(at, one.small)
            waiting.append((at, one))
            if len(waiting) > self._held:
                yield self._first(waiting)
        while waiting:
            yield self._first(waiting)

    def _first(self, waiting: "deque[tuple[int, Seen]]") -> tuple[Seen, bool]:
        """Take the picture that has waited longest, and decide by those behind it."""
        at, one = waiting.popleft()
        cut = at in self._found and self._is_cut(at, one.small, [other.small for _, other in waiting])
        self._begun, self._before = at if cut else self._begun, one.small
        self._found.discard(at)
        return one, cut

    def _is_cut(self, at: int, small: np.ndarray, after: Sequence[np.ndarray]) -> bool:
        if self._before is None or at < self._begun + self._shortest or at <= self._flash or _black(small):
            return False
        if not _black(self._before) and (length := _flash(self._before, small, after[: self._shortest])):
            self._flash = at + length
            return False
        return True

    def _look(self, at: int, small: np.ndarray) -> None:
        from scenedetect import FrameTimecode

        now = FrameTimecode(at, self._rate)
        for detector in self._detectors:
            self._found.update(cut.frame_num for cut in detector.process_frame(now, small))


def _flash(before: np.ndarray, at: np.ndarray, after: Sequence[np.ndarray]) -> int | None:
    """How many pictures a change lasts, until one is as the one before it; None if none is."""
    change = _difference(before, at)
    return next((number for number, one in enumerate(after, 1) if _difference(before, one) < SAME * change), None)


def _black(small: np.ndarray) -> bool:
    return float(small.mean()) < BLACK


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())
