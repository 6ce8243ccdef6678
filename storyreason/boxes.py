"""A bounding box: `x1,y1,x2,y2` in integer pixels of the original image, x1 < x2 and y1 < y2."""

from typing import NamedTuple


class Box(NamedTuple):
    """Corners in pixels, x to the right, y down; `x2, y2` lie one past the last pixel covered."""

    x1: int
    y1: int
    x2: int
    y2: int

    def __str__(self) -> str:
        return f"{self.x1},{self.y1},{self.x2},{self.y2}"
