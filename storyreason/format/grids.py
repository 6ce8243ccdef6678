"""The numbers that a model writes in its boxes, and the pixels that they stand for.

Files, scores and pages have boxes in pixels of the original picture. A model may speak otherwise, by its *convention*:

    original                      pixels of the original picture
    thousandths                   thousandths of the picture's sides: 0 to 1000
    resized:28:3136:12845056      pixels of the picture as the model's processor resizes it: to multiples of 28, with at least
                                  3136 and at most 12845056 pixels

A convention gives each picture a *grid*, its (width, height) in the model's numbers. What a model learns is converted from
picture to grid, and what it writes from grid to picture, by the same function.
"""

import math
from collections.abc import Sequence

from storyreason.format.analysis import AnalysisParser, Section
from storyreason.format.answer import CLOSE, OPEN
from storyreason.format.boxes import Box
from storyreason.format.tables import Character, Object

ORIGINAL = "original"
CONVENTION = r"^(original|thousandths|resized:[1-9][0-9]{0,3}:[0-9]{1,9}:[1-9][0-9]{0,9})$"
"""What a convention looks like, as a regular expression."""
Size = tuple[int, int]
"""Width and height, in pixels or in a model's numbers."""
Change = tuple[Size, Size]
"""The size of a picture before a conversion, and after it."""


def grid(convention: str, size: Size) -> Size:
    """The size of a picture, given in pixels, in a model's numbers.

    >>> grid("resized:28:3136:12845056", (575, 240))
    (588, 252)
    """
    kind, *numbers = convention.split(":")
    if kind == "thousandths":
        return 1000, 1000
    return _resized(size, *map(int, numbers)) if numbers else size


def _resized(size: Size, cell: int, least: int, most: int) -> Size:
    """As the processors of the Qwen-VL families resize (`smart_resize` in transformers)."""
    width, height = size
    wide, high = round(width / cell) * cell, round(height / cell) * cell
    if wide * high > most:
        shrink = math.sqrt(height * width / most)
        wide, high = (max(cell, math.floor(side / shrink / cell) * cell) for side in size)
    elif wide * high < least:
        grow = math.sqrt(least / (height * width))
        wide, high = (math.ceil(side * grow / cell) * cell for side in size)
    return wide, high


def convert(box: Box, change: Change) -> Box:
    """A box in a picture of another size: each number to the nearest, halves up.

    A box that has an area keeps one: where both corners would meet, they are one apart, around its middle. Corners within
    the picture stay within it. There and back, a number is off by at most half a unit of the coarser size (rounded), that
    of a box narrower than a unit by at most one.

    >>> str(convert(Box(57, 12, 115, 120), ((575, 240), (1000, 1000))))
    '99,50,200,500'
    """
    (width, height), (wide, high) = change
    x1, x2 = _side(box.x1, box.x2, width, wide)
    y1, y2 = _side(box.y1, box.y2, height, high)
    return Box(x1, y1, x2, y2)


def _side(low: int, high: int, before: int, after: int) -> tuple[int, int]:
    first, last = ((2 * number * after + before) // (2 * before) for number in (low, high))
    if low < high and first == last:
        first = (low + high) * after // (2 * before)
        return first, first + 1
    return first, last


def converted(answer: str, changes: Sequence[Change]) -> str:
    """An answer with the boxes of its analysis converted; `changes` are those of its images, in order.

    Everything else stays as it is written: rows that cannot be read, and boxes of images that are not there, too.
    """
    lines = BoxLines(changes)
    return "\n".join(map(lines.line, answer.split("\n")))


class BoxLines:
    """Converts the boxes of an answer line by line, so that it can be converted while it is being written."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.closed = False
        """Whether the analysis has ended: from here on nothing changes."""
        self._changes = changes
        self._parser: AnalysisParser | None = None
        self._image = 0

    def line(self, text: str) -> str:
        """The next line, given and returned without its line end."""
        if self.closed:
            return text
        before = ""
        if self._parser is None:
            before, opened, text = text.partition(OPEN)
            if not opened:
                return before
            before, self._parser = before + opened, AnalysisParser()
        thought, close, after = text.partition(CLOSE)
        self.closed = bool(close)
        return before + self._row(self._parser.line(thought), thought) + close + after

    def _row(self, found: object, text: str) -> str:
        if isinstance(found, Section):
            self._image = found.image
        if not isinstance(found, (Character, Object)) or found.box is None or not 0 < self._image <= len(self._changes):
            return text
        body = text.rstrip().removesuffix("|")
        cells, pipe, cell = body.rpartition("|")
        box = convert(found.box, self._changes[self._image - 1])
        return cells + pipe + cell.replace(cell.strip(), str(box)) + text[len(body) :]
