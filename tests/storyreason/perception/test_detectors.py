"""Detectors by name: tiny random models of the real classes, faces, and the truth."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from storyreason.errors import ConfigError, DataError, ModelError
from storyreason.perception import detectors
from storyreason.perception.detecting import Found
from storyreason.perception.frames import Frame
from storyreason.sample import movie
from tests.storyreason.perception import models, videos

FRAMES = [Frame("film-7", 0, at, None, "", *videos.SIZE, b"") for at in range(2)]


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.mask2former(tmp_path_factory.mktemp("models") / "mask2former")


def check(found: list[Found], size: tuple[int, ...]) -> None:
    """Boxes lie in the picture, and around their masks."""
    for one in found:
        x1, y1, x2, y2 = one.box
        assert 0 <= x1 < x2 <= size[1] and 0 <= y1 < y2 <= size[0] and 0 <= one.score <= 1
        assert one.mask is not None and one.mask.shape == size[:2] and detectors.box(one.mask) == one.box


@pytest.mark.parametrize("kind", ["mask2former", "eomt"])
def test_things_of_a_panoptic_model_have_boxes_and_masks(kind: str, tmp_path: Path) -> None:
    folder = getattr(models, kind)(tmp_path / kind)
    images = [videos.scene(1).copy(), videos.scene(2, (200, 120)).copy()]
    found = detectors.named(str(folder), threshold=0.0).detect(FRAMES, images)
    assert len(found) == 2 and any(found)
    for one, image in zip(found, images, strict=True):
        check(one, image.shape)
        assert {part.label.removeprefix("background: ") for part in one} <= set(models.COCO)


def test_stuff_is_what_the_model_says_or_coco_or_what_is_named(panoptic: Path, tmp_path: Path) -> None:
    image = [videos.scene(1).copy()]
    things = detectors.named(str(panoptic), threshold=0.0).detect(FRAMES[:1], image)[0]
    name = things[0].label
    stuff = detectors.named(str(panoptic), stuff=[name], threshold=0.0).detect(FRAMES[:1], image)[0]
    assert f"background: {name}" in {one.label for one in stuff} and name not in {one.label for one in stuff}
    coco = detectors.named(str(panoptic))
    assert isinstance(coco, detectors.Panoptic) and coco._stuff == {len(models.COCO) - at for at in (1, 2, 3)}
    other = models.mask2former(tmp_path / "other", ["wall", "door", "window"])
    with pytest.raises(ConfigError, match=r"does not say which of its 3 classes are stuff, .* by --stuff"):
        detectors.named(str(other))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "metadata": {"thing_ids": [1, 2]}}))
    said = detectors.named(str(other))
    assert isinstance(said, detectors.Panoptic) and said._stuff == {0}
    with pytest.raises(ConfigError, match="has no class 'sea': name some of wall, door, window"):
        detectors.named(str(other), stuff=["sea"])


def test_stuff_is_divided_into_its_connected_parts() -> None:
    mask = np.zeros((50, 100), bool)
    mask[:10, :40], mask[:10, 60:], mask[30, 30] = True, True, True
    assert [detectors.box(part) for part in detectors.parts(mask)] == [(0, 0, 40, 10), (60, 0, 100, 10)]


def test_a_grounded_model_finds_what_it_is_told(tmp_path: Path) -> None:
    folder = models.grounding_dino(tmp_path / "model")
    wanted = ["person", "landmark: clock tower"]
    detector = detectors.named(str(folder), wanted, threshold=0.0)
    (found, _) = detector.detect(FRAMES, [videos.scene(seed).copy() for seed in range(2)])
    assert found and {one.label for one in found} <= set(wanted)


def test_a_model_without_weights_is_refused(panoptic: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="none cannot be loaded as AutoModelForUniversalSegmentation"):
        detectors.named(str(tmp_path / "none"))
    folder = tmp_path / "half"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text((panoptic / name).read_text())
    with pytest.raises(ModelError, match=r"half cannot be loaded .* name a folder or Hub ID with its weights"):
        detectors.named(str(folder))
    weights = load_file(panoptic / "model.safetensors")
    save_file({name: weight for name, weight in weights.items() if "class_predictor" not in name},
              folder / "model.safetensors", {"format": "pt"})  # fmt: skip
    with pytest.raises(ModelError, match=r"half has no weights for 2 of its parts, such as class_predictor.bias"):
        detectors.named(str(folder))


def test_a_real_face_stands_for_a_person() -> None:
    from storyreason.perception.video import Video

    image = next(Video(videos.CARPHONE).frames()).pixels()
    ((person,),) = detectors.named("faces").detect(FRAMES[:1], [image])
    x1, y1, x2, y2 = person.box
    assert person.label == "person" and x1 < 72 and x2 > 124 and y1 < 38 and y2 > 144


def test_the_truth_has_noise_that_is_always_the_same(tmp_path: Path) -> None:
    _, told = movie.write(tmp_path, shots=2)
    truth = json.loads(told.read_text())["boxes"]
    detector = detectors.named(f"truth:{tmp_path}")
    frames = [Frame("film-7", 0, at, None, "", *movie.SIZE, b"") for at in range(40)]
    found = detector.detect(frames, [])
    assert found == detector.detect(frames, [])
    known = sum(len(truth.get(str(at), [])) for at in range(40))
    assert 0.8 * known < sum(map(len, found)) < known
    # A frame of half the size has boxes of half the size.
    small = detector.detect([Frame("film-7", 0, 0, None, "", movie.SIZE[0] // 2, movie.SIZE[1] // 2, b"")], [])
    assert [one.box for one in small[0]] == [tuple(np.array(one.box) / 2) for one in found[0]]
    with pytest.raises(DataError, match="The truth of film 'other' is not known; known are film-7"):
        detector.detect([Frame("other", 0, 0, None, "", 8, 8, b"")], [])
    with pytest.raises(DataError, match="has no truth of films: make some by `storyreason sample film"):
        detectors.named(f"truth:{tmp_path / 'none'}")
