"""Faces by dlib, whose models come in packages: a detector (HOG) in dlib itself, landmarks and embedder in
`face-recognition-models`.

All of them are free for any use (Boost, CC0). The fifth file of that package, with 68 landmarks, is not, and is not read.
"""

import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from storyreason.errors import ModelError
from storyreason.perception.detecting import Face

MODELS = "face-recognition-models"
FILES = ("shape_predictor_5_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat")
"""What is read of it: landmarks and embedder."""
LARGER = 1
"""How often a picture is doubled before faces are looked for: the detector sees none below 80 pixels."""
CHIP = 150
"""Pixels of a side of the picture that is embedded."""


def identity() -> str:
    """What determines what is found, without loading it: the packages, and the first 16 hex digits of the models' SHA-256.

    Raises ModelError if a package is missing.
    """
    digests = []
    for name in FILES:
        with (_folder() / name).open("rb") as content:
            digests.append(hashlib.file_digest(content, "sha256").hexdigest()[:16])
    return f"dlib {_dlib().__version__}, {MODELS} {metadata.version(MODELS)} ({', '.join(digests)})"


class Dlib:
    """Finds faces and embeds them in 128 numbers. `known` is its `identity`, if that was computed before.

    Raises ModelError if a package is missing.
    """

    def __init__(self, known: str = "") -> None:
        folder, dlib = _folder(), _dlib()
        self._dlib = dlib
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(folder / FILES[0]))
        self._embedder = dlib.face_recognition_model_v1(str(folder / FILES[1]))
        self.identity = known or identity()
        self._seen: list[tuple[np.ndarray, list[tuple[Any, float]]]] = []

    def boxes(self, images: Sequence[np.ndarray]) -> list[list[tuple[tuple[float, float, float, float], float]]]:
        """Box and score (0 to 1) of each face in RGB pictures, uint8 of shape [height, width, 3].

        Until the next call, `faces` of one of these arrays does not look for them again.
        """
        self._seen = [(image, self._found(image)) for image in images]
        return [[(_box(one), score) for one, score in found] for _, found in self._seen]

    def faces(self, image: np.ndarray) -> list[Face]:
        """As `FaceFinder`."""
        known = next((found for one, found in self._seen if one is image), None)
        image, found = np.ascontiguousarray(image), []
        for one, score in self._found(image) if known is None else known:
            chip = self._dlib.get_face_chip(image, self._landmarks(image, one), size=CHIP)
            embedding = np.array(self._embedder.compute_face_descriptor(chip), np.float32)
            found.append(Face(_box(one), score, embedding))
        return found

    def _found(self, image: np.ndarray) -> list[tuple[Any, float]]:
        rectangles, scores, _ = self._detector.run(np.ascontiguousarray(image), LARGER, 0.0)
        # A score is a distance from the detector's plane, about 0 to 3.
        return [(one, float(1 / (1 + np.exp(-score)))) for one, score in zip(rectangles, scores, strict=True)]


def _box(one: Any) -> tuple[float, float, float, float]:
    return float(one.left()), float(one.top()), float(one.right()), float(one.bottom())


def _dlib() -> Any:
    try:
        import dlib
    except ImportError as error:
        raise ModelError(
            "Faces need the package dlib-bin: pip install 'storyreason[build]', or --faces none."
        ) from error
    return dlib


def _folder() -> Path:
    """Where the package has its files. It is not imported: that needs a `pkg_resources` that new setuptools do not have."""
    try:
        return Path(str(metadata.distribution(MODELS).locate_file("face_recognition_models/models")))
    except metadata.PackageNotFoundError as error:
        raise ModelError(
            f"Faces need the package {MODELS}: pip install 'storyreason[build]', or --faces none."
        ) from error
