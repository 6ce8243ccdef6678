"""A film as its detections, sorted."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Name = str | int
"""What names a film, scene, frame or detection."""


@dataclass(frozen=True)
class Film:
    """The detections of one film, sorted by scene, frame and ID, with numbers in names sorted as numbers."""

    name: Name
    ids: Sequence[Name]
    labels: Sequence[str]
    scene_names: Sequence[Name]
    frame_names: Sequence[Name]
    scenes: "np.ndarray"
    """Scenes counted from 0, of shape [n]."""
    frames: "np.ndarray"
    """Frames counted from 0 over the whole film, of shape [n]."""
    boxes: "np.ndarray"
    """`x1,y1,x2,y2` in pixels, float64 of shape [n, 4]."""
    faces: "np.ndarray"
    """Embeddings of length 1, float32 of shape [n, d]; zeros for a detection without a face."""
    face_heights: "np.ndarray"
    """Pixels, float32 of shape [n]; 0 for a detection without a face."""
    looks: "np.ndarray"
    """Embeddings of length 1, float32 of shape [n, d]; zeros for a detection without one."""

    def __len__(self) -> int:
        return len(self.ids)


def sort_key(value: Name) -> tuple[Any, ...]:
    """Sorts names with the numbers in them as numbers.

    >>> sorted(["scene 10", "scene 9", "scene 09"], key=sort_key)
    ['scene 09', 'scene 9', 'scene 10']
    """
    if isinstance(value, int):
        return (value,)
    parts: list[Any] = re.split("([0-9]+)", value)
    # The length of a number without leading zeros, then its digits: int() refuses thousands of them.
    parts[1::2] = [(len(digits), digits) for digits in (part.lstrip("0") for part in parts[1::2])]
    return tuple(parts), value


def kinds(labels: Iterable[str]) -> list[str]:
    """The kind of entity that each label is: `char`, `lm`, `bg` or `obj`.

    >>> kinds(["person", "dog", "landmark: the old mill", "background: sky"])
    ['char', 'obj', 'lm', 'bg']
    """
    named = {"person": "char", "landmark": "lm", "background": "bg"}
    return [named.get(label.partition(":")[0].strip().lower(), "obj") for label in labels]
