"""Cuts of films whose cuts are known."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from storyreason.perception.cuts import scenes
from storyreason.perception.video import Seen, Video, shrunk
from storyreason.sample import movie
from tests.storyreason.perception import videos


def cuts(path: Path) -> list[int]:
    """The first frames of all scenes but the first."""
    video = Video(path)
    return begun(scenes(video.frames(), video.rate))


def begun(found: Iterable[tuple[int, Seen]]) -> list[int]:
    first: dict[int, int] = {}
    for scene, one in found:
        first.setdefault(scene, one.number)
    return list(first.values())[1:]


def seen(pictures: Iterable[np.ndarray]) -> list[Seen]:
    return [Seen(at, None, "", shrunk(one), lambda one=one: one) for at, one in enumerate(pictures)]  # type: ignore[misc]


def test_a_real_clip_is_cut_where_people_see_it() -> None:
    assert cuts(videos.BIKES) == [30, 76, 137, 187, 242]


def test_cuts_and_fades_are_found_and_pans_and_flashes_are_none(tmp_path: Path) -> None:
    """A made film of 14 shots: F1 is at least 0.98. A cut is exact, a fade's lies where the next shot fades in."""
    video, truth = movie.write(tmp_path, seed=7, shots=14)
    known, found = json.loads(truth.read_text())["cuts"], cuts(video)
    plan = movie.plan(7, 14)
    assert {"cut", "fade"} == {one["kind"] for one in known}
    assert any(shot.flash for shot in plan) and any(shot.pans for shot in plan)
    right = sum(
        any(0 <= at - one["frame"] <= (movie.FADE if one["kind"] == "fade" else 0) for at in found) for one in known
    )
    assert 2 * right / (len(known) + len(found)) >= 0.98


@pytest.mark.parametrize("length", [1, 3, 6])
def test_a_flash_is_no_cut_wherever_it_is(length: int) -> None:
    pictures = videos.shots(40, 40)
    pictures[20 : 20 + length] = [np.full_like(pictures[0], 255)] * length
    assert begun(scenes(seen(pictures), 24)) == [40]


def test_a_flash_at_a_cut_leaves_one_cut() -> None:
    pictures = videos.shots(40, 40)
    pictures[40] = np.full_like(pictures[0], 255)
    assert begun(scenes(seen(pictures), 24)) in ([40], [41])


def test_after_black_a_scene_begins() -> None:
    pictures = videos.shots(40, 40)
    pictures[38:44] = [np.zeros_like(pictures[0])] * 6
    assert begun(scenes(seen(pictures), 24)) == [44]


def test_pictures_that_are_seconds_apart_may_return(tmp_path: Path) -> None:
    """A change and back is a flash in a video, and in pictures a view and its reverse."""
    one, other = videos.scene(1), videos.scene(2)
    assert begun(scenes(seen([one, other, one, one, other]), None)) == [1, 2, 4]


@pytest.mark.parametrize("rate", [None, 24])
def test_a_change_of_shape_is_a_cut(rate: float | None) -> None:
    wide, high = videos.scene(1), videos.scene(1, (96, 160))
    assert begun(scenes(seen([wide] * 20 + [high] * 20 + [wide] * 20), rate)) == [20, 40]
