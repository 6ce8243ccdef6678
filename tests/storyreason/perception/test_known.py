"""Looks are embedded once for each picture, box, mask and model, counted at the real embedder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from storyreason.perception import detecting, detectors, frames, looks
from storyreason.perception.detecting import Found
from storyreason.perception.known import Known
from tests.storyreason.perception import models


class Counting(looks.Embedder):
    """Counts the crops that the model is given."""

    count = 0

    def looks(self, image: np.ndarray, found: Sequence[Found]) -> np.ndarray:
        self.count += len(found)
        return super().looks(image, found)


class Corrected:
    """A detector whose boxes in one film have been corrected."""

    def __init__(self, folder: Path, film: str) -> None:
        self._truth, self._film = detectors.named(f"truth:{folder}"), film
        self.identity = f"{self._truth.identity}, corrected"

    def detect(self, frames: Sequence[frames.Frame], images: Sequence[np.ndarray]) -> list[list[Found]]:
        found = self._truth.detect(frames, images)
        return [
            [replace(one, box=(one.box[0] + 1, *one.box[1:])) for one in seen[:1]] + seen[1:]
            if frame.film == self._film
            else seen
            for frame, seen in zip(frames, found, strict=True)
        ]


def of_film(table: Path, film: str) -> list[object]:
    return [row for row in pq.read_table(table).to_pylist() if row["film"] == film]


def test_another_detector_costs_only_what_it_finds_elsewhere(films: Path, tmp_path: Path) -> None:
    looker, known, source = (
        Counting(str(models.dinov2(tmp_path / "model")), "cpu"),
        tmp_path / "known",
        films / "frames",
    )
    first, again, bare = (tmp_path / f"{name}.parquet" for name in ("first", "again", "bare"))

    report = detecting.detect(source, first, detectors.named(f"truth:{films}"), looker, known=known)
    assert looker.count == report.embedded == report.detections > 20

    looker.count = 0
    report = detecting.detect(source, again, Corrected(films, "film-8"), looker, known=known)
    assert 0 < looker.count == report.embedded <= frames.films(source)["film-8"]
    assert of_film(again, "film-7") == of_film(first, "film-7") and of_film(again, "film-8") != of_film(first, "film-8")

    looker.count = 0
    detecting.detect(source, bare, Corrected(films, "film-8"), looker)
    assert looker.count == report.detections  # that many it was before
    for one, other in zip(pq.read_table(again).to_pylist(), pq.read_table(bare).to_pylist(), strict=True):
        assert one["look"] == pytest.approx(other["look"], abs=1e-5) and one["x1"] == other["x1"]


def test_another_model_or_mask_or_a_damaged_file_is_embedded_again(films: Path, tmp_path: Path) -> None:
    frame = next(frames.read(films / "frames", "film-7"))
    image, found = np.zeros((frame.height, frame.width, 3), np.uint8), Found("person", (1, 2, 30, 40), 0.9)
    masked = replace(found, mask=np.eye(frame.height, frame.width, dtype=bool))

    def embedded(model: str, one: Found) -> int:
        looker = looks.Embedder(str(tmp_path / model), "cpu")
        known = Known(looker.identity, tmp_path / "known")
        known.looks(frame.image, [(one.box, one.mask)], lambda new: looker.looks(image, [one]))
        known.keep()
        return known.embedded

    models.dinov2(tmp_path / "dinov2")
    models.siglip(tmp_path / "siglip")
    asked = [("dinov2", found), ("dinov2", found), ("dinov2", masked), ("siglip", found), ("dinov2", masked)]
    assert [embedded(*one) for one in asked] == [1, 0, 1, 1, 0]
    for file in (tmp_path / "known").iterdir():
        file.write_bytes(b"damaged")
    assert embedded("dinov2", found) == 1 and embedded("dinov2", found) == 0
