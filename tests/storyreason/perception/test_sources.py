"""Films on disk: what is one, and how their pictures are read."""

import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from storyreason.errors import DataError
from storyreason.perception import sources
from tests.storyreason.perception import videos


def film(folder: Path, *names: str) -> Path:
    """A folder of different pictures."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(videos.png(videos.scene(number)))
    return folder


def test_each_video_archive_and_folder_is_a_film(tmp_path: Path) -> None:
    film(tmp_path / "films" / "film 10", "1.png")
    film(tmp_path / "films" / "film 9", "scene 1/1.png")
    for name in ("b.mp4", "c.tar.gz", "d.zip", "notes.txt", ".hidden.mp4"):
        (tmp_path / "films" / name).write_text("")
    (tmp_path / "films" / "nothing").mkdir()
    found = sources.find([tmp_path / "films"])
    assert list(found) == ["b", "c", "d", "film 9", "film 10"]
    assert sources.find([tmp_path / "films" / "film 10"]) == {"film 10": tmp_path / "films" / "film 10"}
    assert sources.find([tmp_path / "films" / "b.mp4", tmp_path / "films"]) == found


def test_a_link_to_a_folder_of_pictures_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk" / "0017").mkdir(parents=True)
    (tmp_path / "disk" / "0017" / "1.png").touch()
    (tmp_path / "clara").symlink_to(tmp_path / "disk" / "0017")
    assert list(sources.find([tmp_path / "clara"])) == ["clara"]
    monkeypatch.chdir(tmp_path / "disk" / "0017")
    assert list(sources.find([Path()])) == ["0017"]


def test_two_films_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("")
    (tmp_path / "a.mkv").write_text("")
    with pytest.raises(DataError, match=r"a.mkv and .*a.mp4 are two films of one name, 'a': rename one"):
        sources.find([tmp_path])


def test_where_no_film_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No film is in .*: name videos \(.avi"):
        sources.find([tmp_path])
    with pytest.raises(DataError, match="There is no "):
        sources.find([tmp_path / "none"])


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_pictures_are_read_by_number_and_subfolders_are_scenes(tmp_path: Path, kind: str) -> None:
    names = ["scene 2/frame 9.png", "scene 2/frame 10.png", "scene 10/1.png", "scene 10/.hidden.png"]
    path = film(tmp_path / "film", *names)
    if kind != "folder":
        path = tmp_path / f"film.{kind}"
        with zipfile.ZipFile(path, "w") if kind == "zip" else tarfile.open(path, "w:gz") as packed:
            for name in reversed(names):
                add = packed.write if isinstance(packed, zipfile.ZipFile) else packed.add
                add(tmp_path / "film" / name, name)
    seen = list(sources.open_film(path).frames())
    assert [(one.number, one.scene, one.source, one.seconds) for one in seen] == [
        (0, 0, "scene 2/frame 9.png", None),
        (1, 0, "scene 2/frame 10.png", None),
        (2, 1, "scene 10/1.png", None),
    ]
    assert (seen[1].pixels() == videos.scene(1)).all()


def test_pictures_that_wait_for_the_end_of_their_scene_are_not_held_decoded(tmp_path: Path) -> None:
    size = (1000, 800)
    (tmp_path / "scene").mkdir()
    for number in range(10):
        (tmp_path / "scene" / f"{number}.png").write_bytes(videos.png(videos.scene(number, size)))
    tracemalloc.start()
    try:
        seen = list(sources.open_film(tmp_path).frames())
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10 * 1000 * 800 * 3 / 4
    assert (seen[7].pixels() == videos.scene(7, size)).all()


def test_a_picture_that_does_not_decode_is_left_out_and_named(tmp_path: Path) -> None:
    folder = film(tmp_path / "film", "1.png", "2.png", "3.png")
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])
    source = sources.open_film(folder)
    assert [one.number for one in source.frames()] == [0, 2]
    assert source.problem is not None
    assert source.problem.startswith(f"{folder}: 1 pictures do not decode and are left out: 2.png (")
    for name in ("1.png", "3.png"):
        (folder / name).write_text("none")
    with pytest.raises(DataError, match=r"has no picture that decodes, such as 1.png \("):
        list(sources.open_film(folder).frames())


@pytest.mark.parametrize("name", ["film.zip", "film.tar"])
def test_an_archive_that_is_none_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("none")
    with pytest.raises(DataError, match=f"{name} cannot be read .*: pack or copy it again"):
        sources.open_film(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (zipfile.ZIP_DEFLATED, "Error -3 while decompressing data"),
        (zipfile.ZIP_LZMA, "Corrupt input data"),
        (zipfile.ZIP_BZIP2, "Invalid data stream"),
        (zipfile.ZIP_STORED, "Bad CRC-32"),
    ],
)
def test_an_archive_with_damaged_data_is_said(tmp_path: Path, kind: int, why: str) -> None:
    with zipfile.ZipFile(tmp_path / "film.zip", "w", kind) as packed:
        packed.writestr("1.png", videos.png(videos.scene(1)))
    content = bytearray((tmp_path / "film.zip").read_bytes())
    content[60:120] = b"\xff" * 60  # behind the header of the file
    (tmp_path / "film.zip").write_bytes(content)
    with pytest.raises(DataError, match=rf"film.zip cannot be read \({why}.*\): pack or copy it again"):
        list(sources.open_film(tmp_path / "film.zip").frames())


def test_an_archive_with_a_password_or_damaged_names_is_said(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "film.zip", "w") as packed:
        packed.writestr("1ä.png", videos.png(videos.scene(1)))
    whole = (tmp_path / "film.zip").read_bytes()
    directory = whole.index(b"PK\x01\x02")
    locked = bytearray(whole)
    locked[6] |= 1  # general purpose bit 0: encrypted
    locked[directory + 8] |= 1
    (tmp_path / "film.zip").write_bytes(locked)
    with pytest.raises(DataError, match=r"film.zip cannot be read \(.*password required.*\): pack or copy it again"):
        list(sources.open_film(tmp_path / "film.zip").frames())
    (tmp_path / "film.zip").write_bytes(whole.replace("ä".encode(), b"\xff\xff"))
    with pytest.raises(DataError, match=r"film.zip cannot be read \('utf-8' codec .*\): pack or copy it again"):
        sources.open_film(tmp_path / "film.zip")


def test_a_fingerprint_follows_from_content(tmp_path: Path) -> None:
    one, other = film(tmp_path / "a", "1.png", "2.png"), film(tmp_path / "b", "1.png", "2.png")
    assert sources.fingerprint(one) == sources.fingerprint(other)
    (other / "2.png").rename(other / "3.png")
    assert sources.fingerprint(one) != sources.fingerprint(other)
