"""A build's record says which folders it uses, whatever happens to it."""

import contextvars
from collections.abc import Callable
from pathlib import Path

import pytest

from storyreason import runs
from storyreason.sample import movie
from tasks import ahead, builds, filming
from tests.storyreason.authoring import films, scripted
from tests.tasks.building import config, whole


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    return films.write(tmp_path / "frames", films=2)


def removable(keep: int = 1) -> dict[str, list[str]]:
    """Which steps have folders that can be removed, by what is said of them."""
    found: dict[str, list[str]] = {}
    for folder, said in builds.removable(keep):
        found.setdefault(said.partition(", ")[2], []).append(folder.parent.name)
    return found


def test_a_build_keeps_what_its_data_set_is_made_of(kept: Path) -> None:
    with scripted.endpoint() as endpoint:
        with builds.recorded("films", "mine") as record:
            first = whole(kept, runs.root(), endpoint.url)
            record.end()
        assert removable() == {}

        with builds.recorded("films", "mine") as record:
            folder = whole(kept, runs.root(), endpoint.url, temperature=0.1)
            assert removable() == {}  # it may fail, and the first is wanted again
            record.publish(folder, "films.dvc")
            record.end()
        assert folder != first
        assert removable() == {
            "of no build": ["author", "author", "assemble"],
            "a copy of what is a version of films.dvc": ["assemble"],
        }

        with builds.recorded("films", "mine"):
            whole(kept, runs.root(), endpoint.url, licence="mit")
        assert removable()["a copy of what is a version of films.dvc"] == ["assemble"]  # and not the new one
        assert removable()["of no build"] == ["assemble"]


def test_an_interrupted_build_keeps_what_it_has_done(kept: Path, tmp_path: Path) -> None:
    def interrupted(place: str, number: int) -> None:
        with pytest.raises(KeyboardInterrupt), builds.recorded(place, "mine") as record:
            record.use(runs.work_folder("extract", f"{number:016}") / "frames.parquet")
            raise KeyboardInterrupt

    interrupted("some", 1)
    with next((runs.root() / "builds").iterdir()).open("a") as file:
        file.write('{"folder": "extr')  # the disk was full
    interrupted("some", 2)
    assert removable() == {}
    interrupted("others", 3)
    interrupted("others", 2)
    assert removable() == {"of an older build": ["extract"]} and removable(keep=2) == {}


def test_what_workers_do_ahead_of_an_interrupted_build_is_its_own(kept: Path, tmp_path: Path) -> None:
    movie.write(tmp_path / "films", 7, 4)
    chosen = config("", films={"detector": f"truth:{tmp_path / 'films'}", "faces": "none"})
    reel = filming.reel("film-7", tmp_path / "films" / "film-7.mp4")
    with pytest.raises(KeyboardInterrupt), builds.recorded("films", "mine"):
        filming.check(chosen, [reel])
        _process_of_its_own(lambda: ahead.Worker(chosen, str(Path.cwd()), str(runs.root())).see(reel))
        raise KeyboardInterrupt
    assert len(list(runs.root().glob("*/*/*.parquet"))) == 2 and removable() == {}


def _process_of_its_own(see: Callable[[], None]) -> None:
    """A process of Ray knows nothing of the build: neither does a fresh context."""
    contextvars.Context().run(see)


def test_pictures_of_groundcap_belong_to_the_build_that_reads_them(kept: Path) -> None:
    pictures = runs.work_folder("groundcap", "0" * 16)
    (pictures / "films" / "tt1" / "1").mkdir(parents=True)
    (pictures / "films" / "tt1" / "1" / "1.jpg").write_bytes(b"a picture")
    assert removable() == {"of no build": ["groundcap"]}
    with builds.recorded("daniel3303/GroundCap", "mine"):
        filming.reel("tt1", pictures / "films" / "tt1")
    assert removable() == {}
