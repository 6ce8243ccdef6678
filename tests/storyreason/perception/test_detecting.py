"""From frames to the table of detections."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from storyreason import pictures
from storyreason.perception import Detections, detecting, detectors, frames, looks
from storyreason.perception.detecting import Face, Found, assigned, chosen
from storyreason.perception.faces import Dlib
from storyreason.perception.video import Video
from tests.storyreason.perception import videos


def person(*box: float, score: float = 0.9, mask: np.ndarray | None = None) -> Found:
    return Found("person", box, score, mask)  # type: ignore[arg-type]


def face(*box: float) -> Face:
    return Face(box, 0.9, np.ones(128, np.float32))  # type: ignore[arg-type]


def test_doubles_what_is_too_small_and_the_least_telling_are_left_out() -> None:
    left_out = Counter[str]()
    small = [Found("cup", (x, 0, x + 5, 5), 0.9) for x in range(0, 300, 6)]
    large = Found("car", (0, 50, 200, 150), 0.5)
    given = [*small, large, Found("car", (2, 50, 200, 150), 0.4), Found("bus", (0, 51, 200, 150), 0.3),
             Found("cup", (-9, 0, 3, 9), 0.9)]  # fmt: skip
    found = chosen(given, 320, 200, left_out)
    assert len(found) == detecting.MOST and large in found and found == sorted(found, key=lambda one: one.box)
    assert left_out == {"too small": 1, "doubles": 2, "beyond the 40 most telling of a frame": 11}
    assert chosen(list(reversed(given)), 320, 200, Counter()) == found


def test_boxes_end_with_the_picture() -> None:
    (one,) = chosen([person(-10, -20, 500, 90)], 320, 200, Counter())
    assert one.box == (0, 0, 320, 90)


def test_each_face_is_one_persons() -> None:
    """Two people side by side, one before the other: the nearer head wins, and nobody has two faces."""
    left, right = person(0, 0, 60, 200), person(40, 10, 120, 200)
    found = assigned([face(65, 20, 95, 50), face(15, 10, 45, 40)], [left, right])
    assert {at: one.box[0] for at, one in found.items()} == {0: 15, 1: 65}
    assert assigned([face(15, 10, 45, 40), face(15, 60, 45, 90)], [left]).keys() == {0}
    assert assigned([face(10, 120, 50, 160)], [left]) == {}  # a face at the knees is somebody else's
    assert assigned([face(15, 10, 45, 40)], [Found("dog", (0, 0, 60, 200), 0.9)]) == {}


def test_a_mask_says_more_than_a_box() -> None:
    mask = np.zeros((200, 200), bool)
    mask[:, 100:] = True
    # By the boxes alone it would be the other's face, in whose upper middle it is.
    behind, before = person(0, 0, 200, 200, mask=mask), person(60, 0, 200, 200, mask=~mask)
    assert {at: one.box[0] for at, one in assigned([face(120, 10, 150, 40)], [behind, before]).items()} == {0: 120}


class Counting:
    """Counts what a detector and a looker are given."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.detected, self.embedded, self.decoded = Counter[str](), Counter[str](), Counter[bytes]()
        self._truth, self._colours = detectors.named(f"truth:{folder}"), looks.named("histogram")
        self.identity = self._truth.identity
        rgb = pictures.rgb

        def decoded(encoded: bytes) -> object:
            self.decoded[encoded] += 1
            return rgb(encoded)

        monkeypatch.setattr(pictures, "rgb", decoded)

    def detect(self, frames: Sequence[frames.Frame], images: Sequence[np.ndarray]) -> list[list[Found]]:
        self.detected.update(frame.place for frame in frames)
        return self._truth.detect(frames, images)

    def looks(self, image: np.ndarray, found: Sequence[Found]) -> np.ndarray:
        self.embedded.update(str(one) for one in found)
        return self._colours.looks(image, found)


def test_the_table_is_what_identify_reads(films: Path, tmp_path: Path) -> None:
    truth, colours = detectors.named(f"truth:{films}"), looks.named("histogram")
    report = detecting.detect(films / "frames", tmp_path / "detections.parquet", truth, colours)
    table = Detections(tmp_path / "detections.parquet")
    assert table.films == ["film-7", "film-8"] and len(table) == report.detections
    (film, _) = table
    assert set(film.labels) >= {"person"} and film.looks.any(axis=1).all()
    kept = {(one.scene, one.frame) for one in frames.read(films / "frames", "film-7")}
    assert set(zip(film.scene_names, film.frame_names, strict=True)) <= kept
    assert len(set(film.ids)) == len(film) and film.ids[0] == f"{film.frame_names[0]}-0"
    assert [path.name for path in tmp_path.iterdir()] == ["detections.parquet"]


def test_a_run_that_was_killed_goes_on_and_computes_nothing_twice(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting, out = Counting(films, monkeypatch), tmp_path / "detections.parquet"

    def killed(film: str, done: int, all: int) -> None:
        if film == "film-8":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detecting.detect(films / "frames", out, counting, counting, tell=killed)
    assert not out.exists()
    first = {place for place in counting.detected if "film-7" in place}
    counting.decoded.clear()
    report = detecting.detect(films / "frames", out, counting, counting)
    assert report.known == 1 and {counting.detected[place] for place in first} == {1}
    assert max(counting.decoded.values()) == 1
    whole = tmp_path / "whole.parquet"
    for counter in (counting.detected, counting.embedded):
        counter.clear()
    counting.decoded.clear()
    report = detecting.detect(films / "frames", whole, counting, counting)
    assert out.read_bytes() == whole.read_bytes()
    assert {*counting.detected.values(), *counting.embedded.values(), *counting.decoded.values()} == {1}
    assert counting.embedded.total() == report.detections


def test_faces_that_stand_for_people_are_looked_for_once_in_a_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dlib

    pictures_ = [one.pixels() for one in Video(videos.CARPHONE).frames() if one.number % 40 == 0]
    encoded = [*map(videos.png, pictures_), videos.png(videos.scene(1))]
    made = [frames.Frame("man", 0, at, None, "", *pictures.size(one), one) for at, one in enumerate(encoded)]
    frames.write(tmp_path / frames.FILE, made)
    hog, looked = dlib.get_frontal_face_detector(), Counter[bytes]()

    class Hog:
        def run(self, image: np.ndarray, *more: float) -> Any:
            looked[image.tobytes()] += 1
            return hog.run(image, *more)

    monkeypatch.setattr(dlib, "get_frontal_face_detector", Hog)
    apart, once = (tmp_path / f"{name}.parquet" for name in ("apart", "once"))
    colours = looks.named("histogram")
    detecting.detect(tmp_path, apart, detectors.named("faces"), colours, Dlib(), batch=2)
    assert sorted(looked.values()) == [1, 2, 2, 2]  # as two that know nothing of each other
    looked.clear()
    people = detectors.named("faces")
    report = detecting.detect(tmp_path, once, people, colours, detectors.finder(people), batch=2)
    assert report.faces == 3 and once.read_bytes() == apart.read_bytes()
    assert sorted(looked.values()) == [1, 1, 1, 1]


def test_where_nothing_is_found(films: Path, tmp_path: Path) -> None:
    class Blind:
        identity = "blind"

        def detect(self, frames: Sequence[frames.Frame], images: Sequence[np.ndarray]) -> list[list[Found]]:
            return [[] for _ in images]

    report = detecting.detect(films / "frames", tmp_path / "out.parquet", Blind(), looks.named("histogram"))
    assert report.frames and not report.detections and not pq.read_table(tmp_path / "out.parquet").num_rows
    assert detecting.models(tmp_path / "out.parquet")["Detector"] == "blind"
