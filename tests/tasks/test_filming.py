"""The first steps of a data set of films: one film after the other, each read once, with what is missing said beforehand."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prefect.logging import disable_run_logger

from storyreason import dataset, runs
from storyreason.errors import ConfigError, DataError, EngineAwayError, EngineError, ModelError, RunError
from storyreason.perception import detecting, detectors, faces, frames, looks, sources
from storyreason.perception.frames import Frame
from storyreason.sample import movie
from tasks import building, filming
from tests.storyreason.authoring import scripted
from tests.storyreason.perception import videos
from tests.tasks.building import config, seen, storm, whole
from tests.tiny import file_size_limit


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films of the sample world, of 8 shots each."""
    folder = tmp_path_factory.mktemp("films")
    for seed in (7, 8):
        movie.write(folder, seed, 8)
    return folder


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    filming.unload()


def chosen(films: Path, **more: object) -> dict[str, object]:
    """The settings with which films of the sample world are detected, fast."""
    return {"detector": f"truth:{films}", "faces": "none", **more}


def test_films_become_a_data_set_and_another_film_leaves_the_first_as_they_are(films: Path, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    first, second = (films / f"film-{seed}.mp4" for seed in (7, 8))
    (tmp_path / "films" / first.name).symlink_to(first)
    with scripted.endpoint() as endpoint:
        folder = whole(tmp_path / "films", tmp_path / "runs", endpoint.url, films=chosen(films))
        one = {path: path.stat().st_mtime_ns for path in runs.root().glob("*/*/*.parquet")}
        (tmp_path / "films" / second.name).symlink_to(second)
        folder = whole(tmp_path / "films", tmp_path / "runs", endpoint.url, films=chosen(films))
    assert not dataset.check(folder).bad
    told = [one for split in dataset.SPLITS for one in dataset.load(folder, split)]
    assert {one.origin.film for one in told if one.origin} == {"film-7", "film-8"}
    assert {path: path.stat().st_mtime_ns for path in one} == one
    card = (folder / "README.md").read_text()
    assert "- Detector: the truth with noise, " in card and "- Faces: none" in card
    assert "- Looks: histograms of colours, version 1" in card and "of those of films" in card


def test_what_is_missing_is_said_before_a_film_is_read(films: Path, tmp_path: Path) -> None:
    reels = [filming.reel(name, path) for name, path in sources.find([films]).items()]
    empty = tmp_path / "empty"
    empty.mkdir()
    for detector, error, said in (
        (str(empty), ModelError, "it has no config.json"),
        (f"truth:{empty}", DataError, "has no truth of films"),
    ):
        with pytest.raises(error, match=said):
            filming.check(config("http://127.0.0.1:9", films={"detector": detector}), reels)
    with pytest.raises(ConfigError, match="No GPU can be used here"):
        detectors.loaded("model", "AutoModel", "AutoImageProcessor", "cuda")
    assert not list(runs.root().glob("extract/*/*.parquet"))

    right = config("http://127.0.0.1:9", films=chosen(films))
    assert filming.check(right, reels)
    with disable_run_logger():
        assert len(seen(right, films)) == 2
    filming.unload()
    assert not filming.check(right, reels) and filming._models.cache_info().currsize == 0


class Blind:
    """Finds nothing, under the name that it is given last."""

    def __init__(self, *given: object) -> None:
        self.identity = str(given[-1])

    def detect(self, frames: Sequence[Frame], images: Sequence[object]) -> list[list[detecting.Found]]:
        return [[] for _ in images]

    def looks(self, image: object, found: Sequence[detecting.Found]) -> Any: ...


def test_weights_are_read_once_in_a_run_however_many_films_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = [tmp_path / name / "model.safetensors" for name in ("detector", "looks")]
    for path in weights:
        path.parent.mkdir()
        path.write_text(path.parent.name)
        (path.parent / "config.json").write_text("{}")
    detector, looker = (str(path.parent) for path in weights)
    right = config("", films={"detector": detector, "looks": looker, "faces": "dlib"})
    for room in (detectors, looks):
        monkeypatch.setattr(room, "named", Blind)
    image = videos.png(videos.scene(1))
    frames.write(tmp_path / frames.FILE, [Frame("a", 0, 0, None, "", *videos.SIZE, image)])
    hashed, digest = Counter[str](), hashlib.file_digest

    def counting(file: Any, kind: str) -> Any:
        hashed[file.name] += 1
        return digest(file, kind)

    reels = [filming.Reel(name, tmp_path, name) for name in "abc"]
    with monkeypatch.context() as patch, disable_run_logger():
        patch.setattr(hashlib, "file_digest", counting)
        assert filming.check(right, reels)
        found = [filming.detect.compute(right, tmp_path, one.name, one.content).detections for one in reels]
    assert [hashed[str(path)] for path in weights] == [1, 1]
    assert {name: count for name, count in hashed.items() if name.endswith(".dat") and count != 1} == {}

    named_by = {"detector": detectors.identity(detector), "faces": faces.identity(), "looks": looks.identity(looker)}
    assert filming.detect.work(right, tmp_path, "a", "a").fingerprint == runs.fingerprint(
        step="detect", version=detecting.VERSION, frames="a", **named_by
    )
    assert detecting.models(found[0]) == {kind.capitalize(): name for kind, name in named_by.items()}

    weights[0].write_text("others")
    filming.check(right, reels)
    assert filming.detect.work(right, tmp_path, "a", "a").folder not in {path.parent for path in found}


def test_an_author_that_is_not_there_is_said_before_a_film_is_read() -> None:
    with pytest.raises(EngineAwayError, match=r"The model that writes is not there: .*9/v1/models did not answer"):
        building.check_author(config("http://127.0.0.1:9"))
    with scripted.endpoint(models=["gpt", "claude"]) as endpoint:
        with pytest.raises(ConfigError, match="has no model 'storyteller', only claude, gpt: name one of them"):
            building.check_author(config(endpoint.url))
        building.check_author(config(endpoint.url, model="gpt"))
    with scripted.endpoint(models=None) as endpoint:
        building.check_author(config(endpoint.url))
    with scripted.endpoint(key="secret") as endpoint, pytest.raises(EngineError, match="401"):
        building.check_author(config(endpoint.url))


def test_a_film_in_which_nothing_is_found_has_an_empty_table(tmp_path: Path) -> None:
    clip = videos.write(tmp_path / "blocks.mp4", videos.shots(30))
    with disable_run_logger():
        kept = filming.extract.compute(config(""), filming.reel("blocks", clip))
        found = filming.detect.compute(config(""), kept.folder, "blocks", kept.fingerprint)
    assert kept.kept and not found.count and detecting.models(found.detections)["Detector"].startswith("people by dlib")


def test_a_film_that_breaks_off_is_kept_up_to_there(films: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mkv"
    whole_ = videos.write(tmp_path / "whole.mkv", videos.shots(60, 60, 60)).read_bytes()
    broken.write_bytes(whole_[: len(whole_) * 2 // 3])
    with disable_run_logger():
        kept = filming.extract.compute(config(""), filming.reel("broken", broken))
    assert kept.kept and "broken.mkv breaks off after" in kept.problem
    again = filming.extract.compute(config(""), filming.reel("broken", broken))  # from its manifest
    assert again == kept
    broken.write_bytes(whole_)
    with disable_run_logger():
        mended = filming.extract.compute(config(""), filming.reel("broken", broken))
    assert mended.folder != kept.folder and mended.kept > kept.kept and not mended.problem


def test_a_full_disk_is_no_fault_of_the_film(films: Path, tmp_path: Path) -> None:
    film = filming.reel("film-7", films / "film-7.mp4")
    with (
        disable_run_logger(),
        file_size_limit(20_000),
        pytest.raises(RunError, match=r"cannot be written \(The disk is full\)"),
    ):
        filming.extract.compute(config(""), film)
    assert not list(runs.root().rglob("*.unfinished")) and not list(runs.root().glob("extract/*/*.parquet"))


def test_a_film_is_withdrawn_with_its_frames_and_detections(films: Path, tmp_path: Path) -> None:
    from tasks import withdrawing

    right = config("", films=chosen(films))
    with disable_run_logger():
        tables = seen(right, films)
    interrupted = runs.work_folder("extract", "0" * 16)
    (interrupted / frames.FILE).write_bytes(b"half of a film")
    known = filming.known_looks("film-7")
    known.mkdir(parents=True)
    assert set(withdrawing._made_of("film-7")) == {tables[0].kept, tables[0].detections.parent, known}
    assert list(withdrawing._interrupted()) == [interrupted]
    assert pq.read_table(tables[1].detections, columns=["film"]).column("film").unique().to_pylist() == ["film-8"]


@pytest.mark.server
def test_a_build_of_films_that_was_killed_at_random_has_the_bytes_of_an_unbroken_one(
    films: Path, tmp_path: Path
) -> None:
    storm(films, tmp_path, 4, films=chosen(films))
