"""From films to the table of frames: what is in it, and that nothing is done twice."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from storyreason import pictures
from storyreason.errors import DataError
from storyreason.perception import filming, frames, sources, video
from storyreason.perception.video import Seen
from tests.storyreason.perception import videos


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of two scenes, another of three, and a folder of pictures in two scenes."""
    folder = tmp_path_factory.mktemp("films")
    videos.write(folder / "a.mp4", videos.shots(30, 40))
    videos.write(folder / "b.mkv", videos.shots(30, 30, 30))
    for scene in range(2):
        (folder / "c" / f"{scene}").mkdir(parents=True)
        for number in range(5):
            (folder / "c" / f"{scene}" / f"{number}.png").write_bytes(videos.png(videos.scene(10 * scene + number)))
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the frames that are read, by film."""
    counted = Counter[str]()

    for kind in (video.Video, sources.Pictures):

        def frames(self: sources.Source, original=kind.frames) -> Iterator[Seen]:  # type: ignore[no-untyped-def]
            for one in original(self):
                counted[self.path.stem] += 1
                yield one

        monkeypatch.setattr(kind, "frames", frames)
    return counted


def test_the_table_has_what_was_agreed(films: Path, tmp_path: Path) -> None:
    reports, left_out = filming.extract([films], tmp_path)
    assert left_out == [] and filming.reports(tmp_path) == reports
    assert [(one.film, one.seen, one.scenes, one.problem) for one in reports] == [
        ("a", 70, 2, None),
        ("b", 90, 3, None),
        ("c", 10, 2, None),
    ]
    for one in reports:
        assert one.kept + sum(one.left_out.values()) == one.seen
    found = list(frames.read(tmp_path))
    assert found == sorted(found, key=lambda one: (one.film, one.scene, one.frame))
    assert Counter(one.film for one in found) == {one.film: one.kept for one in reports}
    assert {one.scene for one in found if one.film == "b"} == {0, 1, 2}
    assert max(Counter((one.film, one.scene) for one in found if one.film != "c").values()) == 3
    assert [one.source for one in found if one.film == "c"] == [
        f"{scene}/{at}.png" for scene in range(2) for at in range(5)
    ]
    for frame in found:
        assert frame.source == {"a": "a.mp4", "b": "b.mkv"}.get(frame.film, frame.source)
        assert (
            frame.seconds is None if frame.film == "c" else frame.seconds == pytest.approx(frame.frame / 24, abs=1e-3)
        )
        assert pictures.header(frame.image) == ("JPEG", frame.width, frame.height)
        assert pictures.canonical(frame.image) == frame.image
    assert sorted(one.name for one in tmp_path.iterdir()) == [".lock", frames.FILE]


def test_a_run_that_was_killed_goes_on_and_reads_nothing_twice(
    films: Path, tmp_path: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    filming.extract([films], tmp_path / "unbroken")
    assert read == {"a": 70, "b": 90, "c": 10}
    read.clear()

    def killed(film: str, done: int, all: int) -> None:
        if film == "b" and done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filming.extract([films], tmp_path / "out", tell=killed)
    assert not (tmp_path / "out" / frames.FILE).exists()
    filming.extract([films], tmp_path / "out")
    assert read == {"a": 70, "b": 50 + 90, "c": 10}
    whole = (tmp_path / "unbroken" / frames.FILE).read_bytes()
    assert (tmp_path / "out" / frames.FILE).read_bytes() == whole
    filming.extract([films], tmp_path / "out")
    assert read == {"a": 70, "b": 50 + 90, "c": 10}
    assert (tmp_path / "out" / frames.FILE).read_bytes() == whole


def test_only_what_is_new_is_read(films: Path, tmp_path: Path, read: Counter[str]) -> None:
    filming.extract([films / "a.mp4"], tmp_path)
    filming.extract([films], tmp_path)
    assert read == {"a": 70, "b": 90, "c": 10}
    filming.extract([films / "a.mp4"], tmp_path, filming.Settings(per_scene=1))
    assert read["a"] == 140 and frames.films(tmp_path) == {"a": 2}


def test_what_was_removed_from_a_film_is_known_until_it_is_read_again(films: Path, tmp_path: Path) -> None:
    filming.extract([films / "a.mp4"], tmp_path)
    gone = [("a", 0, 3), ("b", 1, 2)]
    said = {**frames.metadata(tmp_path), frames.GONE: json.dumps(gone)}
    frames.write(tmp_path / frames.FILE, list(frames.read(tmp_path)), lambda: said)
    filming.extract([films / "a.mp4", films / "c"], tmp_path)
    assert frames.gone(tmp_path) == gone[:1]
    filming.extract([films / "a.mp4"], tmp_path, filming.Settings(per_scene=1))
    assert frames.gone(tmp_path) == []


def test_bars_are_cut_and_large_frames_made_smaller(tmp_path: Path) -> None:
    framed = []
    for picture in videos.shots(30):
        framed.append(np.zeros((128, 160, 3), np.uint8))
        framed[-1][16:-16] = picture
    filming.extract([videos.write(tmp_path / "a.mp4", framed)], tmp_path / "out", filming.Settings(longest_side=80))
    sizes = {(one.width, one.height) for one in frames.read(tmp_path / "out")}
    assert sizes == {(80, 48)}


def test_a_jpeg_that_needs_no_change_stays_as_it_is(tmp_path: Path) -> None:
    from PIL import Image

    from storyreason.sample.drawing import encode

    encoded = [encode(Image.fromarray(videos.scene(seed))) for seed in range(2)]
    (tmp_path / "film").mkdir()
    for number, one in enumerate(encoded):
        (tmp_path / "film" / f"{number}.jpg").write_bytes(one)
    filming.extract([tmp_path / "film"], tmp_path / "out")
    assert [one.image for one in frames.read(tmp_path / "out")] == encoded


def test_a_film_that_cannot_be_read_does_not_stop_the_others(films: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("none")
    reports, left_out = filming.extract([films / "a.mp4", tmp_path / "bad.mp4"], tmp_path / "out")
    assert [one.film for one in reports] == ["a"]
    assert len(left_out) == 1 and "bad.mp4 cannot be read as a video" in left_out[0]
    with pytest.raises(DataError, match=r"No film could be read. .*bad.mp4 cannot be read"):
        filming.extract([tmp_path / "bad.mp4"], tmp_path / "other")
