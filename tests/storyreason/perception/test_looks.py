"""Looks and faces: what is in a box as numbers."""

from pathlib import Path

import numpy as np
import pytest

from storyreason.perception import looks
from storyreason.perception.detecting import Found
from storyreason.perception.faces import Dlib
from storyreason.perception.video import Video
from tests.storyreason.perception import models, videos

IMAGE = videos.scene(1).copy()
BOX, TALL = (10.0, 10.0, 50.0, 40.0), (0.0, 0.0, 16.0, 96.0)


@pytest.mark.parametrize("kind", ["siglip", "dinov2", looks.COLOURS])
def test_a_box_has_one_look_whatever_is_around_it(kind: str, tmp_path: Path) -> None:
    looker = looks.named(kind if kind == looks.COLOURS else str(getattr(models, kind)(tmp_path / kind)))
    found = looker.looks(IMAGE, [Found("a", BOX, 1.0), Found("b", TALL, 1.0)])
    assert found.shape == (2, 192 if kind == looks.COLOURS else 16) and found.dtype == np.float32
    other = videos.scene(2).copy()
    other[10:40, 10:50] = IMAGE[10:40, 10:50]
    assert looker.looks(other, [Found("a", BOX, 1.0)])[0] == pytest.approx(found[0], abs=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("kind", ["siglip", looks.COLOURS])
def test_what_is_not_in_the_mask_is_not_seen(kind: str, tmp_path: Path) -> None:
    looker = looks.named(kind if kind == looks.COLOURS else str(getattr(models, kind)(tmp_path / kind)))
    mask = np.zeros(IMAGE.shape[:2], bool)
    mask[12:38, 14:30] = True
    other = np.where(mask[:, :, None], IMAGE, 200).astype(np.uint8)
    one, two = (looker.looks(image, [Found("a", BOX, 1.0, mask)])[0] for image in (IMAGE, other))
    assert one == pytest.approx(two, abs=1e-5)


def test_a_crop_is_a_square_on_grey() -> None:
    square = looks.crop(IMAGE, Found("a", TALL, 1.0))
    assert square.shape == (96, 96, 3)
    assert (square[:, 40:56] == IMAGE[:, :16]).all() and (square[:, :40] == looks.GREY).all()


def test_the_embeddings_of_a_real_face_are_alike() -> None:
    """dlib calls two faces one person's below a distance of 0.6."""
    finder, found = Dlib(), []
    for one in Video(videos.CARPHONE).frames():
        if one.number % 40 == 0:
            found += finder.faces(one.pixels())
    assert len(found) == 3 and all(30 < face.height < 80 for face in found)
    vectors = np.array([face.embedding for face in found])
    assert vectors.shape == (3, 128)
    assert np.linalg.norm(vectors[:, None] - vectors, axis=2).max() < 0.6
