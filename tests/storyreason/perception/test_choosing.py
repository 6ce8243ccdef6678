"""Which frames of scenes are kept."""

import cv2
import numpy as np

from storyreason.perception.choosing import Chooser, bars
from storyreason.perception.video import Seen, shrunk
from tests.storyreason.perception import videos


def of(*pictures: np.ndarray, scene: int = 0, start: int = 0) -> list[tuple[int, Seen]]:
    return [
        (scene, Seen(start + at, None, "", shrunk(one), lambda one=one: one))  # type: ignore[misc]
        for at, one in enumerate(pictures)
    ]


def kept(chooser: Chooser, seen: list[tuple[int, Seen]]) -> list[tuple[int, int]]:
    return [(one.scene, one.seen.number) for one in chooser.kept(seen)]


def test_the_sharp_frame_of_each_stretch_is_kept() -> None:
    sharp = [videos.scene(seed) for seed in range(3)]
    blurred = [cv2.GaussianBlur(one, (31, 31), 0) for one in sharp]
    chooser = Chooser(3)
    # More frames than candidates: stretches of two, then of four.
    pictures = [blurred[0], sharp[0], blurred[0], blurred[0]] * 4
    pictures += [blurred[1], sharp[1], blurred[1], blurred[1]] * 4
    found = kept(chooser, of(*pictures))
    assert len(found) == 2 and {number % 4 for _, number in found} == {1}
    assert sum(chooser.left_out.values()) == len(pictures) - 2


def test_a_scene_has_at_most_its_limit_of_those_that_differ_most() -> None:
    pictures = videos.shots(60)
    for limit in (1, 2, 3):
        chooser = Chooser(limit)
        found = kept(chooser, of(*pictures))
        assert len(found) == limit
        assert sum(chooser.left_out.values()) + limit == 60
    first, *_, last = (number for _, number in found)
    assert last - first > 30


def test_black_blurred_and_alike_frames_are_left_out_and_counted() -> None:
    one, other = videos.scene(1), videos.scene(2)
    chooser = Chooser(5)
    found = kept(chooser, of(one, np.zeros_like(one), one, cv2.GaussianBlur(other, (31, 31), 0)))
    assert found == [(0, 0)]
    assert chooser.left_out == {"plain": 1, "blurred": 1, "alike": 1}


def test_a_view_that_returns_soon_is_kept_once() -> None:
    one, other = videos.scene(1), videos.scene(2)
    pictures = [*of(one), *of(other, scene=1, start=1), *of(one, scene=2, start=2)]
    chooser = Chooser(3)
    assert kept(chooser, pictures) == [(0, 0), (1, 1)]
    assert chooser.scenes == 3


def test_without_a_limit_all_that_differ_are_kept() -> None:
    pictures = [videos.scene(seed) for seed in range(50)]
    assert len(kept(Chooser(None), of(*pictures, pictures[-1]))) == 50


def test_a_long_scene_has_few_candidates_from_all_of_it() -> None:
    chooser = Chooser(2)
    found, _ = chooser._candidates(one for _, one in of(*(videos.scene(seed, (16, 10)) for seed in range(500))))
    places = [0, *(one.seen.number for one in found), 500]
    assert len(found) <= 8 and chooser.left_out["surplus"] == 500 - len(found)
    assert max(np.diff(places)) < 200


def test_bars_are_dark_in_the_whole_scene_and_on_both_sides() -> None:
    light = np.full((100, 200), 150, np.uint8)
    assert bars(light) == (0, 0, 1, 1)
    light[:12] = light[-12:] = 20
    assert bars(light) == (0, 0.12, 1, 0.88)
    light[:, :30] = 0  # a dark half of the picture is no bar
    assert bars(light) == (0, 0.12, 1, 0.88)
    assert bars(np.full((100, 200), 20, np.uint8)) == (0, 0, 1, 1)


def test_bars_are_those_of_pictures_of_one_shape() -> None:
    barred = videos.scene(1).copy()
    barred[:12] = barred[-12:] = 0
    found = list(
        Chooser(None).kept(of(videos.scene(2, (96, 160)), videos.scene(3), barred.swapaxes(0, 1), barred[:, :120]))
    )
    assert [one.box for one in found] == [(0, 0, 1, 1), (0, 0, 1, 1), (0, 0, 1, 1), (0, 0.125, 1, 0.875)]
