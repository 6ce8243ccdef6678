"""Detectors by name: models of the Hub's `transformers` library, faces that stand for people, and the truth with noise.

| name | what finds |
|---|---|
| a model's folder or Hub ID | a panoptic model (EoMT, Mask2Former, ...): things by their masks, stuff by its connected parts |
| the same, with names | a model that finds what it is told (Grounding DINO) |
| `nanodet:FOLDER` | NanoDet, COCO's 80 things: the folder of a package that has its weights (`make nanodet`) |
| `faces` | people whose face is seen, by dlib: the box is guessed from the face |
| `truth:FOLDER` | a film of `storyreason sample film` in a folder: its boxes, moved and missed at random |
"""

import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from storyreason import model
from storyreason.errors import ConfigError, DataError, ModelError
from storyreason.perception import faces, nanodet
from storyreason.perception.coco import THINGS
from storyreason.perception.detecting import Detector, Found
from storyreason.perception.faces import Dlib
from storyreason.perception.frames import Frame

STUFF_AREA = 0.01
"""The share of a picture that a part of stuff covers at least."""
STUFF_PARTS = 3
"""Parts of one kind of stuff in a picture, at most: the largest."""
MOVED, MISSED = 0.04, 0.05
"""What `truth` does to boxes: the standard deviation of their edges, as a share of their size, and how many it misses."""
BY = "people by "
"""How the identity of `People` begins, before that of what finds their faces."""


def named(
    name: str,
    names: Sequence[str] = (),
    stuff: Sequence[str] = (),
    threshold: float | None = None,
    device: str = "cpu",
    known: str = "",
) -> Detector:
    """A detector by its name. `known` is its `identity`, where that was computed before: it reads all weights.

    Raises ConfigError, ModelError or DataError.
    """
    if name.startswith("truth:"):
        return Truth(Path(name.removeprefix("truth:")))
    if name.startswith("nanodet:"):
        check_device("NanoDet", device)
        return nanodet.NanoDet(Path(name.removeprefix("nanodet:")), threshold, device, known)
    if name == "faces":
        return People(Dlib(known.removeprefix(BY)))
    if names:
        return Grounded(name, names, _least(names, threshold), device, known)
    return Panoptic(name, stuff, _least(names, threshold), device, known)


def finder(detector: Detector, known: str = "") -> Dlib:
    """What finds faces beside a detector. That of `People` has found them in the pictures that they were given last.

    `known` is as in `named`.
    """
    return detector.finder if isinstance(detector, People) else Dlib(known)


def identity(name: str, names: Sequence[str] = (), stuff: Sequence[str] = (), threshold: float | None = None) -> str:
    """What determines what `named` finds, without loading its weights. Raises ModelError or DataError."""
    if name.startswith("truth:"):
        return Truth(Path(name.removeprefix("truth:"))).identity
    if name.startswith("nanodet:"):
        return nanodet.identity(Path(name.removeprefix("nanodet:")), threshold)
    if name == "faces":
        return BY + faces.identity()
    told = f"for {', '.join(names)}, " if names else f"stuff: {', '.join(stuff)}, " if stuff else ""
    return f"{model.said(name)}, {told}from {_least(names, threshold):g}"


def _least(names: Sequence[str], threshold: float | None) -> float:
    """The least score of what is found: by default 0.3 for a Grounding DINO, which is given names, and 0.7 for others."""
    if threshold is not None:
        return threshold
    return 0.3 if names else 0.7


class Panoptic:
    """A panoptic model. `stuff` names its classes that are stuff, where the model does not say which are.

    A model says it as `thing_ids` in its configuration's or its processor's `metadata`, or has COCO's names.
    """

    def __init__(self, name: str, stuff: Sequence[str], threshold: float, device: str, known: str = "") -> None:
        self._model, self._processor = loaded(name, "AutoModelForUniversalSegmentation", "AutoImageProcessor", device)
        self._labels = {int(number): label for number, label in self._model.config.id2label.items()}
        self._stuff = self._which_is_stuff(name, stuff)
        self._threshold = threshold
        self.identity = known or identity(name, stuff=stuff, threshold=threshold)

    def _which_is_stuff(self, name: str, stuff: Sequence[str]) -> set[int]:
        if stuff:
            if unknown := set(stuff) - set(self._labels.values()):
                raise ConfigError(
                    f"{name} has no class {sorted(unknown)[0]!r}: name some of {', '.join(self._labels.values())}."
                )
            return {number for number, label in self._labels.items() if label in stuff}
        for holder in (self._model.config, self._processor):
            things = (getattr(holder, "metadata", None) or {}).get("thing_ids")
            if things is not None:
                return set(self._labels) - set(map(int, things))
        if len(set(THINGS) & set(self._labels.values())) < len(THINGS) / 2:
            raise ConfigError(
                f"{name} does not say which of its {len(self._labels)} classes are stuff, and they are not COCO's: name "
                "those that are by --stuff."
            )
        return {number for number, label in self._labels.items() if label not in THINGS}

    def detect(self, frames: Sequence[Frame], images: Sequence[np.ndarray]) -> list[list[Found]]:
        """As `Detector`."""
        import torch

        given = self._processor(images=list(images), return_tensors="pt").to(self._model.device)
        # EoMT looks at large pictures in patches, and wants to know of which picture each is.
        extra = {name: given.pop(name) for name in ("patch_offsets",) if name in given}
        with torch.inference_mode():
            outputs = self._model(**given)
        finish = self._processor.post_process_panoptic_segmentation
        fuse = "stuff_classes" if "stuff_classes" in inspect.signature(finish).parameters else "label_ids_to_fuse"
        kind = list if fuse == "stuff_classes" else set
        sizes = [image.shape[:2] for image in images]
        extra = {key: value for key, value in extra.items() if key in inspect.signature(finish).parameters}
        results = finish(outputs, target_sizes=sizes, threshold=self._threshold, **{fuse: kind(self._stuff)}, **extra)
        return [self._found(result) for result in results]

    def _found(self, result: dict[str, Any]) -> list[Found]:
        where = np.asarray(result["segmentation"].cpu())
        found = []
        for segment in result["segments_info"]:
            mask, label = where == segment["id"], self._labels[segment["label_id"]]
            score = float(segment["score"])
            if segment["label_id"] in self._stuff:
                found += [Found(f"background: {label}", box(part), score, part) for part in parts(mask)]
            elif mask.any():
                found.append(Found(label, box(mask), score, mask))
        return found


class Grounded:
    """A model that finds what it is told, by names in English."""

    def __init__(self, name: str, names: Sequence[str], threshold: float, device: str, known: str = "") -> None:
        self._model, self._processor = loaded(name, "AutoModelForZeroShotObjectDetection", "AutoProcessor", device)
        # `landmark: clock tower` is looked for as a clock tower.
        self._labels = {one.rpartition(":")[2].strip().lower(): one.strip() for one in names}
        self._names, self._threshold = list(self._labels), threshold
        self.identity = known or identity(name, names, threshold=threshold)

    def detect(self, frames: Sequence[Frame], images: Sequence[np.ndarray]) -> list[list[Found]]:
        """As `Detector`."""
        import torch

        text = [self._names] * len(images)
        given = self._processor(images=list(images), text=text, return_tensors="pt", padding=True).to(
            self._model.device
        )
        with torch.inference_mode():
            outputs = self._model(**given)
        sizes = [image.shape[:2] for image in images]
        results = self._processor.post_process_grounded_object_detection(
            outputs, given["input_ids"], threshold=self._threshold, text_threshold=self._threshold, target_sizes=sizes
        )
        return [
            [
                Found(self._labels[self._name(said)], tuple(corners), score)
                for said, corners, score in zip(
                    one["text_labels"], one["boxes"].tolist(), one["scores"].tolist(), strict=True
                )
                if self._name(said)
            ]
            for one in results
        ]

    def _name(self, said: str) -> str:
        """The name that the model's words are of: it says those of its text that it looked at."""
        words = set(said.split())
        shared = {name: len(words & set(name.split())) for name in self._names}
        best = max(shared, key=lambda name: (shared[name], -len(name)))
        return best if shared[best] else ""


class People:
    """People whose face is seen. The box is that of an upright body below it, as far as the picture shows it: a guess."""

    def __init__(self, finder: Dlib) -> None:
        self.finder = finder
        self.identity = BY + finder.identity

    def detect(self, frames: Sequence[Frame], images: Sequence[np.ndarray]) -> list[list[Found]]:
        """As `Detector`."""
        return [[self._person(box, score) for box, score in found] for found in self.finder.boxes(images)]

    @staticmethod
    def _person(box: tuple[float, float, float, float], score: float) -> Found:
        x1, y1, x2, y2 = box
        width, height = x2 - x1, y2 - y1
        return Found("person", (x1 - width, y1 - 0.5 * height, x2 + width, y2 + 5 * height), score)


class Truth:
    """The truth of films that `storyreason sample film` made, with seeded noise: no detector, but as flawed as one."""

    def __init__(self, folder: Path) -> None:
        self._films: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("*.json")):
            told = json.loads(path.read_text())
            self._films[told["film"]] = told
        if not self._films:
            raise DataError(f"{folder} has no truth of films: make some by `storyreason sample film --out {folder}`.")
        told = json.dumps(self._films, sort_keys=True)
        self.identity = f"the truth with noise, {hashlib.sha256(told.encode()).hexdigest()[:16]}"

    def detect(self, frames: Sequence[Frame], images: Sequence[np.ndarray]) -> list[list[Found]]:
        """As `Detector`."""
        return [self._seen(frame) for frame in frames]

    def _seen(self, frame: Frame) -> list[Found]:
        told = self._films.get(frame.film)
        if told is None:
            raise DataError(f"The truth of film {frame.film!r} is not known; known are {', '.join(self._films)}.")
        luck = np.random.default_rng([frame.frame, *frame.film.encode()])
        scale = np.array([frame.width / told["width"], frame.height / told["height"]] * 2)
        found = []
        for row in told["boxes"].get(str(frame.frame), []):
            x1, y1, x2, y2 = row["box"]
            size = np.array([x2 - x1, y2 - y1] * 2)
            moved = (np.array(row["box"]) + luck.normal(0, MOVED, 4) * size) * scale
            score, missed = luck.uniform(0.6, 1), luck.random() < MISSED
            if not missed:
                found.append(Found(row["label"], tuple(moved.tolist()), float(score)))
        return found


def loaded(name: str, kind: str, processor: str, device: str) -> tuple[Any, Any]:
    """A model in evaluation mode, and its processor.

    Raises ModelError also for one that lacks some of its weights, and ConfigError if the device is not there.
    """
    import transformers

    check_device(name, device)
    try:
        found, info = getattr(transformers, kind).from_pretrained(name, output_loading_info=True)
        made = getattr(transformers, processor).from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{name} cannot be loaded as {kind} ({first}): name a folder or Hub ID with its weights."
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{name} has no weights for {len(missing)} of its parts, such as {missing[0]}: what it found would be random."
        )
    return found.eval().to(device), made


def check_device(name: str, device: str) -> None:
    """Raises ConfigError if the device is not there."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"No GPU can be used here, and {name} is to run on {device}: choose the device cpu.")


def box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The box around a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def parts(mask: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a mask that are not small, the largest first."""
    from scipy import ndimage

    numbered, count = ndimage.label(mask)
    areas = np.bincount(numbered.reshape(-1), minlength=count + 1)[1:]
    large = [at for at in np.argsort(-areas, kind="stable")[:STUFF_PARTS] if areas[at] >= STUFF_AREA * mask.size]
    return [numbered == at + 1 for at in large]
