"""Looks: what is in a box as numbers, by an embedding model or by its colours."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from storyreason import model
from storyreason.perception.detecting import Found, Looker

GREY = 127
"""The value of pixels that do not belong to what is in the box."""
COLOURS = "histogram"


def named(name: str, device: str = "cpu", known: str = "") -> Looker:
    """`histogram`, or a model's folder or Hub ID. `known` is its `identity`, if that was computed before. Raises ModelError."""
    return Histogram() if name == COLOURS else Embedder(name, device, known)


def identity(name: str) -> str:
    """What determines what `named` computes, without loading weights. Raises ModelError."""
    return Histogram.identity if name == COLOURS else model.said(name)


class Histogram:
    """The square roots of the shares of 64 colours in the upper, the middle and the lower part: no model, and no more than
    clothes in one light."""

    identity = "histograms of colours, version 1"

    def looks(self, image: np.ndarray, found: Sequence[Found]) -> np.ndarray:
        """As `Looker`; 192 numbers each."""
        return np.array([self._look(image, one) for one in found], np.float32)

    @staticmethod
    def _look(image: np.ndarray, one: Found) -> np.ndarray:
        y, x = area(one, image.shape[:2])
        codes = (image[y, x] // 64) @ np.array([16, 4, 1])
        inside = np.ones(codes.shape, bool) if one.mask is None else one.mask[y, x]
        rows = zip(np.array_split(codes, 3), np.array_split(inside, 3), strict=True)
        counts = np.concatenate([np.bincount(part[where], minlength=64) for part, where in rows])
        shares: np.ndarray = np.sqrt(counts / max(1, counts.sum()))
        return shares


class Embedder:
    """A model of images (SigLIP 2, DINOv2, CLIP, ...), given each box as a square on grey, without what is not in its mask."""

    def __init__(self, name: str, device: str, known: str = "", batch: int = 32) -> None:
        from storyreason.perception.detectors import loaded

        self._model, self._processor = loaded(name, "AutoModel", "AutoImageProcessor", device)
        self._batch = batch
        self.identity = known or identity(name)

    def looks(self, image: np.ndarray, found: Sequence[Found]) -> np.ndarray:
        """As `Looker`."""
        import torch

        made = []
        for start in range(0, len(found), self._batch):
            crops = [crop(image, one) for one in found[start : start + self._batch]]
            given = self._processor(images=crops, return_tensors="pt").to(self._model.device)
            with torch.inference_mode():
                made.append(_vectors(self._model, given).float().cpu().numpy())
        return np.concatenate(made)


def _vectors(model: Any, given: Any) -> Any:
    """One vector for each picture."""
    outputs = model.get_image_features(**given) if hasattr(model, "get_image_features") else model(**given)
    pooled = getattr(outputs, "pooler_output", None)
    if pooled is not None:
        return pooled
    return outputs if getattr(outputs, "last_hidden_state", None) is None else outputs.last_hidden_state[:, 0]


def area(one: Found, size: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of a box, at least one pixel."""
    x1, y1, x2, y2 = one.box
    left, top = min(int(x1), size[1] - 1), min(int(y1), size[0] - 1)
    return slice(top, max(top + 1, round(y2))), slice(left, max(left + 1, round(x2)))


def crop(image: np.ndarray, one: Found) -> np.ndarray:
    """What is in a box, in the middle of a grey square; without what is not in the mask."""
    y, x = area(one, image.shape[:2])
    part = image[y, x]
    if one.mask is not None:
        part = np.where(one.mask[y, x][:, :, None], part, GREY).astype(np.uint8)
    height, width = part.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), GREY, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = part
    return square
