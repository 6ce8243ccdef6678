"""Stories are windows of whole scenes of one film."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storyreason.authoring.windows import Shot, Sighting, recognized, windows
from storyreason.errors import DataError
from storyreason.format.boxes import Box
from storyreason.perception import frames
from storyreason.perception.frames import Frame
from tests.storyreason.authoring import films

PERSON = Sighting("char1", "person", Box(0, 0, 5, 5))


def shots(*scenes: int, people: bool = True) -> list[Shot]:
    """A film whose scenes have so many frames, each with a person or none."""
    return [
        Shot(Frame("clara", scene, frame, None, "clara.mp4", 60, 40, b""), (PERSON,) if people else ())
        for scene, length in enumerate(scenes, 1)
        for frame in range(length)
    ]


def scenes_of(*scenes: int) -> tuple[list[list[int]], int]:
    """The lengths of the scenes of each window, and what is left over."""
    made = windows(shots(*scenes))
    by_scene = [[one.frame.scene for one in window.shots] for window in made.windows]
    return [[place.count(scene) for scene in dict.fromkeys(place)] for place in by_scene], made.left_over


@pytest.mark.parametrize(
    ("scenes", "expected"),
    [
        ((5, 5), ([[5], [5]], 0)),
        ((2, 2, 2, 3), ([[2, 2, 2]], 3)),
        ((4, 3, 1), ([[4, 3]], 1)),
        ((4, 22), ([[22]], 4)),  # together they are too long
        ((4, 18), ([[4, 18]], 0)),
        ((45,), ([[15], [15], [15]], 0)),
        ((4,), ([], 4)),
        ((), ([], 0)),
    ],
)
def test_a_window_has_whole_scenes_5_to_22_images(
    scenes: tuple[int, ...], expected: tuple[list[list[int]], int]
) -> None:
    assert scenes_of(*scenes) == expected


def test_a_window_has_a_person() -> None:
    empty, (first, *rest) = shots(5, 5, people=False), shots(0, 0, 3)
    assert windows(empty).windows == () and windows(empty).left_over == 10
    (window,) = windows([*empty, first, *rest]).windows
    assert len(window.shots) == 13 and window.story_id == "clara-1" and window.entities == {"char1": "person"}


def test_detections_get_their_entities(tmp_path: Path) -> None:
    films.write(tmp_path, films=2)
    of = list(frames.read(tmp_path, "red-lantern-482"))
    seen = recognized(tmp_path / "detections.parquet", tmp_path / "ids.parquet")
    made = windows(seen.shots(of))
    assert [window.story_id for window in made.windows] == ["red-lantern-482-1", "red-lantern-482-2"]
    assert [one.entity for one in made.windows[1].shots[0].seen] == ["char1", "obj1"]
    assert made.windows[1].shots[5].frame.image == of[11].image

    with pytest.raises(DataError, match="has frame 101 of scene 1 twice"):
        seen.shots([of[0], *of])


def test_boxes_end_at_the_edge_and_those_beyond_it_are_left_out(tmp_path: Path) -> None:
    place = {"film": "clara", "scene": 1, "frame": 1}
    corners = [(-3.4, 2.2, 20.0, 90.0), (70.0, 2.0, 90.0, 30.0)]
    rows = [
        {**place, "detection": number, "label": "person", "x1": x1, "y1": y1, "x2": x2, "y2": y2}
        for number, (x1, y1, x2, y2) in enumerate(corners)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "detections.parquet")
    ids: list[dict[str, Any]] = [
        {"film": "clara", "detection": number, "entity": f"char{number + 1}", "probability": None} for number in (0, 1)
    ]
    ids[1]["probability"] = 0.75
    pq.write_table(pa.Table.from_pylist(ids), tmp_path / "ids.parquet")

    seen = recognized(tmp_path / "detections.parquet", tmp_path / "ids.parquet")
    (shot,) = seen.shots([Frame("clara", 1, 1, None, "", 60, 40, b"")])
    assert shot.seen == (Sighting("char1", "person", Box(0, 2, 20, 40)),)
    with pytest.raises(
        DataError, match="1 frames of film 'clara' have detections and no picture, scene 1, frame 1 first"
    ):
        seen.shots([Frame("clara", 1, 2, None, "", 60, 40, b"")])

    pq.write_table(pa.Table.from_pylist(ids[:1]), tmp_path / "ids.parquet")
    with pytest.raises(DataError, match="no entity for detection 1 of film 'clara'"):
        recognized(tmp_path / "detections.parquet", tmp_path / "ids.parquet")
