"""A film, or one of its people, is withdrawn from the data, its tables, and everything that was made of it, and stays away."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from storyreason import dataset, runs
from storyreason.authoring.windows import recognized
from storyreason.config import DataConfig
from storyreason.errors import DataError, RunError
from storyreason.perception import frames
from tasks import building, data, versioning, withdrawing
from tests.storyreason.authoring import films, scripted
from tests.tasks.building import whole
from tests.tasks.cloned import clone, origin  # noqa: F401 (fixtures)

# ruff: noqa: F811 (the same as arguments)

FILM, PERSON = "red-lantern-482", "char2"


@pytest.fixture
def kept(clone: Path, tmp_path: Path) -> Path:
    """The frames of four films, of which a data version was built."""
    kept = films.write(tmp_path / "frames", films=4)
    said = list(frames.read(kept))
    frames.write(kept / frames.FILE, said, lambda: {"storyreason.films": "[]"})
    with scripted.endpoint() as endpoint:
        folder = whole(kept, tmp_path / "runs", endpoint.url)
    data.change("films.dvc", str(folder), dataset.adopt)
    for made in (kept, folder):
        shutil.copytree(made, tmp_path / "before" / made.name)
    return kept


def told(film: str = FILM) -> dict[str, dataset.Example]:
    """The stories of a film in the data."""
    found = [one for split in dataset.SPLITS for one in dataset.load("films", split)]
    return {one.story_id: one for one in found if one.origin is not None and one.origin.film == film}


def files_with(text: str) -> list[Path]:
    """The files in the runs that have a text."""
    return [path for path in runs.root().rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_film_goes_from_everywhere_and_a_new_version_says_so(kept: Path) -> None:
    before = len(told()), data.identify(DataConfig(target="films.dvc")).md5
    assert before[0] == 2 and files_with(FILM) and building.calls(FILM).is_dir()
    assert FILM in Path("films/README.md").read_text()

    said = withdrawing.withdraw("films.dvc", FILM, None, kept, None)

    assert told() == {} and FILM not in Path("films/README.md").read_text()
    assert "Stories withdrawn after it was made: 2." in Path("films/README.md").read_text()
    assert data.identify(DataConfig(target="films.dvc")).md5 != before[1]
    assert frames.metadata(kept)["storyreason.films"] == "[]"
    assert FILM not in frames.films(kept) and len(frames.films(kept)) == 3
    assert FILM not in pq.read_table(kept / "detections.parquet").column("film").to_pylist()
    assert files_with(FILM) == [] and not building.calls(FILM).exists() and building.calls("black-bicycle-481").exists()
    assert "12 frames of red-lantern-482 and what was detected in them are removed" in said
    assert f"2 removed ({FILM}-1, {FILM}-2)" in said and "`dvc gc" in said
    dataset.check(Path("films"))

    assert "films/withdrawn.jsonl lists it" in said
    assert withdrawing.listed("films.dvc") == [dataset.Withdrawn(film=FILM)] and withdrawing.listed("other.dvc") == []
    for place in (".dvc/cache/files", "films"):
        shutil.rmtree(place)
    assert (
        withdrawing.listed("films.dvc") == [dataset.Withdrawn(film=FILM)] and not Path("films").exists()
    )  # the remote has it
    again = data.change("films.dvc", str(kept.parent / "before" / "data"), dataset.adopt)
    assert again == f"nothing changed\n2 stories left out, as they show what was withdrawn ({FILM}-1, {FILM}-2)"

    with pytest.raises(
        DataError, match=f"Neither films.dvc nor the runs of this checkout have anything of film '{FILM}'"
    ):
        withdrawing.withdraw("films.dvc", FILM, None, kept, None)


def test_what_trainings_keep_of_its_pictures_goes_and_not_while_one_runs(kept: Path) -> None:
    old = data.identify(DataConfig(target="films.dvc"))
    unfinished = [runs.root() / name for name in ("data/.0123.part", "data/.gone-4567", "extract/.gone-89ab")]
    pulled = [versioning.keep(old), *unfinished]
    caches = [runs.root() / kind / name for kind in ("prepared", "features") for name in ("0" * 16, ".gone-0123")]
    for folder in (*unfinished, *caches):
        folder.mkdir(parents=True)
    pulled.append(damaged := runs.root() / "data" / "0123")
    damaged.mkdir()
    (damaged / "train-0.parquet").write_text("none")
    (base := runs.root() / "data" / "base").mkdir()
    (base / "model.safetensors").write_text("")

    with runs.lock(runs.work_folder("train", "0" * 16)), pytest.raises(RunError, match="A job is running"):
        withdrawing.withdraw("films.dvc", FILM, PERSON, kept, None)
    assert all(folder.is_dir() for folder in (*pulled, *caches)) and withdrawing.listed("films.dvc") == []
    withdrawing.withdraw("films.dvc", FILM, PERSON, kept, None)
    assert not any(folder.exists() for folder in (*pulled, *caches)) and base.is_dir()

    new = versioning.keep(data.identify(DataConfig(target="films.dvc")))
    withdrawing.withdraw("films.dvc", "black-bicycle-481", PERSON, kept, None)
    assert not new.exists()


def test_a_person_takes_along_only_what_shows_them(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = next((runs.root() / "recognize").glob("*/ids.parquet"))
    seen = recognized(kept / "detections.parquet", ids, FILM).by_film[FILM]
    shown = {place for place, found in seen.items() if PERSON in {one.entity for one in found}}
    assert 0 < len(shown) < 12
    with_them = {name for name, one in told().items() if f"| {PERSON} |" in one.chain_of_thought}
    others = told("black-bicycle-481")

    withdrawing.withdraw("films.dvc", FILM, PERSON, kept, None)

    assert with_them and not with_them & told().keys() and told("black-bicycle-481") == others
    left = {(str(one.scene), str(one.frame)) for one in frames.read(kept, FILM)}
    assert not left & shown and len(left) == 12 - len(shown)
    table = pq.read_table(kept / "detections.parquet").to_pylist()
    assert not {(str(row["scene"]), str(row["frame"])) for row in table if row["film"] == FILM} & shown

    before = tmp_path / "before"
    (entry,) = withdrawing.listed("films.dvc")
    assert (entry.film, entry.entity) == (FILM, PERSON) and {(str(s), str(f)) for s, f in entry.frames} == shown
    with scripted.endpoint(_with_landmarks) as endpoint:
        plain = whole(before / "frames", tmp_path / "plain", endpoint.url, landmarks=["umbrella"])
        pictures = [frame.image for frame in frames.read(before / "frames", FILM) if _place(frame) in shown]
        assert all(any(_asked(body, one) for body in endpoint.bodies) for one in pictures)
        endpoint.bodies.clear()
        built = whole(before / "frames", tmp_path / "new", endpoint.url, withdrawn=[entry], landmarks=["umbrella"])
        assert not any(_asked(body, one) for body in endpoint.bodies for one in pictures)
    assert _pictures(plain) & set(pictures) and not _pictures(built) & set(pictures)
    sheets = [path.read_text() for path in (tmp_path / "new" / "sheet").glob("*/sheet.html")]
    assert len(sheets) == 4 and not any(f'"entity":"{PERSON}"' in page for page in sheets if FILM in page)

    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    added = data.change("films.dvc", str(before / "data"), dataset.adopt)
    assert f"{len(with_them)} stories left out, as they show what was withdrawn" in added
    assert not with_them & told().keys() and withdrawing.listed("films.dvc") == [entry]


def test_a_withdrawal_that_was_killed_between_the_tables_is_finished_by_the_next(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown() -> set[tuple[str, str]]:
        tables = building.Tables(kept, kept / "detections.parquet")
        ids = building.recognize.compute(tables.detections, None).ids
        found = recognized(tables.detections, ids, FILM).by_film[FILM]
        return {place for place, seen in found.items() if PERSON in {one.entity for one in seen}}

    with_them, table = shown(), (kept / "detections.parquet").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("storyreason.authoring.withdrawing._filter", _killed)
        with pytest.raises(KeyboardInterrupt):
            withdrawing.withdraw("films.dvc", FILM, PERSON, kept, None)
    assert (kept / "detections.parquet").read_bytes() == table and frames.gone(kept)

    said = withdrawing.withdraw("films.dvc", FILM, PERSON, kept, None)

    assert f"{len(with_them)} frames of {FILM} and what was detected in them are removed" in said
    left = {(str(row["scene"]), str(row["frame"])) for row in pq.read_table(kept / "detections.parquet").to_pylist()
            if row["film"] == FILM}  # fmt: skip
    assert left == {_place(one) for one in frames.read(kept, FILM)} and not left & with_them
    assert {(scene, frame) for of, scene, frame in frames.gone(kept)} == {(int(s), int(f)) for s, f in with_them}


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def _with_landmarks(body: dict[str, Any], _: int) -> str:
    return '{"landmarks": []}' if "response_format" in body else scripted.right(body)


def _place(frame: frames.Frame) -> tuple[str, str]:
    return str(frame.scene), str(frame.frame)


def _pictures(folder: Path) -> set[bytes]:
    return {image for split in dataset.SPLITS for one in dataset.load(folder, split, raw=True) for image in one.images}


def _asked(body: object, image: bytes) -> bool:
    return base64.b64encode(image).decode() in json.dumps(body)
