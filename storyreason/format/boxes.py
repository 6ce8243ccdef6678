"""Bounding boxes: `x1,y1,x2,y2` in whole pixels of the original image. A valid box has x1 < x2 and y1 < y2."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class Box(NamedTuple):
    """Corners in pixels, x to the right, y down; `x2, y2` lie one past the last pixel covered."""

    x1: int
    y1: int
    x2: int
    y2: int

    def __str__(self) -> str:
        return f"{self.x1},{self.y1},{self.x2},{self.y2}"


# Nine digits exceed any image, and keep hostile numbers out of int() and of numpy's 64 bits.
_BOX = re.compile(r"(-?[0-9]{1,9})[ \t]*,[ \t]*(-?[0-9]{1,9})[ \t]*,[ \t]*(-?[0-9]{1,9})[ \t]*,[ \t]*(-?[0-9]{1,9})")


def parse(text: str) -> Box | None:
    """The box in a cell such as `13,69,150,239` (spaces allowed), or None. An inverted box is returned as it is."""
    match = _BOX.fullmatch(text.strip())
    return Box._make(map(int, match.groups())) if match else None


def area(box: Box) -> int:
    """Square pixels; 0 for an inverted box."""
    return max(0, box.x2 - box.x1) * max(0, box.y2 - box.y1)


def iou(a: Box, b: Box) -> float:
    """Intersection over union, in 0..1; 0 where either box is empty or inverted."""
    overlap = max(0, min(a.x2, b.x2) - max(a.x1, b.x1)) * max(0, min(a.y2, b.y2) - max(a.y1, b.y1))
    union = area(a) + area(b) - overlap
    return overlap / union if overlap else 0.0


def iou_matrix(a: "Sequence[Box] | np.ndarray", b: "Sequence[Box] | np.ndarray") -> "np.ndarray":
    """IoU of every box of `a` (rows) with every box of `b` (columns): float64 of shape [len(a), len(b)].

    An array of boxes has shape [boxes, 4].
    """
    import numpy as np

    rows = np.asarray(a, dtype=np.float64).reshape(-1, 1, 4)
    columns = np.asarray(b, dtype=np.float64).reshape(1, -1, 4)
    low = np.maximum(rows[..., :2], columns[..., :2])
    high = np.minimum(rows[..., 2:], columns[..., 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=-1)
    union = _areas(rows) + _areas(columns) - overlap
    shared: np.ndarray = np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)
    return shared


def _areas(boxes: "np.ndarray") -> "np.ndarray":
    areas: np.ndarray = (boxes[..., 2:] - boxes[..., :2]).clip(0, None).prod(axis=-1)
    return areas


def clip(box: Box, width: int, height: int) -> Box:
    """The part of the box inside an image of that size (pixels). Empty if the box is entirely outside."""
    return Box(
        min(max(box.x1, 0), width), min(max(box.y1, 0), height), min(max(box.x2, 0), width), min(max(box.y2, 0), height)
    )
