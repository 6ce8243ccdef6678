"""The border to `datasets`: what it loads comes in, ours goes out, and both are equal by content."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from storyreason import dataset, publishing, sample
from storyreason.dataset import Example, Origin, changing
from storyreason.errors import DataError
from tests.storyreason.dataset import hub

EXAMPLES = list(sample.examples("train", films=3))
"""Six stories of five to seven images."""


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _texts(example: Example) -> dict[str, str]:
    return {"chain_of_thought": example.chain_of_thought, "story": example.story}


def _pictures(example: Example, folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{example.story_id}-{number}.jpg" for number, _ in enumerate(example.images)]
    for name, image in zip(names, example.images, strict=True):
        (folder / name).write_bytes(image)
    return names


def as_parquet(folder: Path) -> Path:
    import datasets

    ours = folder.parent / "ours"
    dataset.write(EXAMPLES, ours, "train")
    rows = datasets.load_dataset(str(ours), split="train")
    rows.to_parquet(folder / "all.parquet")
    return folder / "all.parquet"


def as_json(folder: Path) -> Path:
    with (folder / "train.jsonl").open("w") as file:
        for one in EXAMPLES:
            names = [f"pictures/{name}" for name in _pictures(one, folder / "pictures")]
            file.write(json.dumps({"story_id": one.story_id, "images": names, **_texts(one)}) + "\n")
    return folder


def as_json_alone(folder: Path) -> Path:
    file = folder / "stories.json"
    urls = [[f"data:image/jpeg;base64,{base64.b64encode(one).decode()}" for one in e.images] for e in EXAMPLES]
    rows = [{"story_id": e.story_id, "images": u, **_texts(e)} for e, u in zip(EXAMPLES, urls, strict=True)]
    file.write_text(json.dumps(rows))
    return file


def as_images(folder: Path) -> Path:
    place = folder / "train"
    rows = [{"story_id": one.story_id, "images_file_names": _pictures(one, place), **_texts(one)} for one in EXAMPLES]
    (place / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def as_webdataset(folder: Path) -> Path:
    with tarfile.open(folder / "train-000.tar", "w") as tar:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        for one in EXAMPLES:
            for number, image in enumerate(one.images, 9):  # 9, 10, 11: in order as numbers, not as texts
                add(f"{one.story_id}.{number}.jpg", image)
            add(f"{one.story_id}.json", json.dumps(_texts(one)).encode())
    return folder


@pytest.mark.parametrize("stored", [as_parquet, as_json, as_json_alone, as_images, as_webdataset])
def test_stories_come_in_from_whatever_they_are_stored_in(stored: Callable[[Path], Path], tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = stored(tmp_path / "source")

    with dataset.fetched(str(source), tmp_path / "data") as place:
        read = [replace(one, frame_count=None) for one in dataset.load(place, "train", raw=True)]

    assert read == EXAMPLES
    assert not place.exists()


@pytest.mark.parametrize("whole", [False, True])
def test_a_tar_that_is_not_read_is_not_looked_at(whole: bool, tmp_path: Path) -> None:
    # Given stories as JSON, beside them a backup, and below them a damaged archive
    (source := tmp_path / "source").mkdir()
    as_json(source)
    (source / "old").mkdir()
    as_webdataset(source).joinpath("train-000.tar").rename(source / "backup.tar")
    (source / "old" / "damaged.tar").write_text("no archive")

    with dataset.fetched(str(source if whole else source / "train.jsonl"), tmp_path / "data") as place:
        read = [replace(one, frame_count=None) for one in dataset.load(place, "train", raw=True)]

    assert read == EXAMPLES


def test_of_several_tars_in_a_folder_the_one_that_is_named_is_read(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = as_webdataset(tmp_path / "source")
    (source / "damaged.tar").write_text("no archive")

    with dataset.fetched(str(source / "train-000.tar"), tmp_path / "data") as place:
        read = [replace(one, frame_count=None) for one in dataset.load(place, "train", raw=True)]

    assert read == EXAMPLES


def test_ours_go_out_and_come_in_again_equal(tmp_path: Path) -> None:
    import datasets

    def from_film(one: Example) -> Example:
        count = len(one.images)
        places = tuple(range(count))
        return replace(one, origin=Origin("a film", places, places, (0.5,) * count, ("a.mp4",) * count))

    whole = list(map(from_film, EXAMPLES))
    for split, examples in (("train", whole), ("test", whole[:1])):
        dataset.write(examples, tmp_path / "ours", split)

    loaded = datasets.load_dataset(str(tmp_path / "ours"))
    for split, rows in loaded.items():
        rows.to_parquet(tmp_path / "theirs" / f"{split}.parquet")
    with dataset.fetched(str(tmp_path / "theirs"), tmp_path / "data") as place:
        assert dataset.compare(tmp_path / "ours", place).nothing
        assert [one.origin for one in dataset.load(place, "train")] == [one.origin for one in whole]

    assert loaded["train"][0]["images"][0].size == (196, 112)
    table = dataset.as_dataset(tmp_path / "ours", "train")
    assert table.num_rows == len(whole) and table[1]["images"][3].size == (196, 112)
    assert table[1]["scene"] == [0, 1, 2, 3, 4]


def test_shards_are_taken_as_they_are(tmp_path: Path) -> None:
    dataset.write(EXAMPLES, tmp_path / "ours", "train")
    with dataset.fetched(str(tmp_path / "ours"), tmp_path / "data") as place:
        assert place == tmp_path / "ours"


def test_splits_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    as_json(theirs)
    shutil.copy(theirs / "train.jsonl", theirs / "validation.jsonl")
    with dataset.fetched(str(theirs), tmp_path / "data") as place:
        assert len(dataset.load(place, "train")) == len(EXAMPLES)
    assert f"{theirs}: only train and test are read, not its splits validation." in caplog.messages


def test_what_comes_in_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir()
    theirs = as_json(tmp_path / "theirs")
    (theirs / "train.jsonl").rename(theirs / "all.jsonl")
    rows = (theirs / "all.jsonl").read_text().splitlines(keepends=True)
    for split, some in (("train", rows[:-2]), ("test", rows[-2:])):
        (theirs / f"{split}.jsonl").write_text("".join(some))
    (theirs / "all.jsonl").unlink()
    written = list[Path]()
    monkeypatch.setattr(changing, "copy", lambda file, to: written.append(to))
    with dataset.fetched(str(theirs), tmp_path / "data") as place:
        kept = {path.name: path.stat().st_ino for path in place.iterdir()}
        assert not dataset.adopt(tmp_path / "data", place).nothing
    assert {path.name: path.stat().st_ino for path in (tmp_path / "data").glob("*.parquet")} == kept and not written
    assert len(dataset.load(tmp_path / "data", "train")) == len(rows) - 2


def test_a_source_without_a_test_split_is_divided_by_film_and_its_card_says_so(tmp_path: Path) -> None:
    import datasets

    def adopted(name: str, make: Callable[[Path], Path]) -> tuple[dict[str, list[str]], str]:
        (tmp_path / name).mkdir()
        data = tmp_path / f"{name}-data"
        with dataset.fetched(str(make(tmp_path / name)), data) as place:
            said = dataset.adopt(data, place).summary()
        return {split: dataset.load(data, split).story_ids() for split in dataset.SPLITS}, said

    found, said = adopted("one", as_json)
    of = {split: set(dataset.films(names).values()) for split, names in found.items()}
    assert len(of["train"]) == 2 and len(of["test"]) == 1 and sum(map(len, found.values())) == len(EXAMPLES)
    (film,) = of["test"]
    sentence = f"1 of 3 films are for test, chosen by a hash of their names: {film}"
    assert f"no test split: {sentence}" in said
    card = (tmp_path / "one-data" / "README.md").read_text()
    assert f"It had no test split: {sentence}." in card and "| stories |" in card
    loaded = datasets.load_dataset(str(tmp_path / "one-data"))
    assert {split: list(loaded[split]["story_id"]) for split in loaded} == found

    def ours(folder: Path) -> Path:  # shards of a reader's own, in another order, with their card
        dataset.write(reversed(EXAMPLES), folder, "train")
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# Theirs\n")
        return folder

    again, _ = adopted("two", ours)
    assert {split: set(names) for split, names in again.items()} == {s: set(names) for s, names in found.items()}
    card = (tmp_path / "two-data" / "README.md").read_text()
    assert "license: mit" in card and "# Theirs" in card and sentence in card and "path: test-*.parquet" in card


@pytest.mark.parametrize(
    ("split", "ids", "said"),
    [
        ("train", ["a-1", "a-2"], "they are all of one film"),
        ("train", ["one", "two"], "they do not say of which films they are"),
        ("test", ["a-1", "b-1"], "has stories for test only, and data need some for train"),
    ],
)
def test_one_split_that_cannot_be_divided_by_film_is_refused(
    split: str, ids: list[str], said: str, tmp_path: Path
) -> None:
    some = [replace(one, story_id=name) for one, name in zip(EXAMPLES, ids, strict=False)]
    dataset.write(some, tmp_path / "theirs", split)
    with pytest.raises(DataError, match=said):
        dataset.adopt(tmp_path / "data", tmp_path / "theirs")
    assert not (tmp_path / "data").exists()


def test_what_cannot_be_taken_is_said_in_a_sentence(tmp_path: Path) -> None:
    def refuse(source: Path, match: str) -> None:
        with (
            pytest.raises(DataError, match=match),
            dataset.fetched(str(source), tmp_path / "data") as place,
        ):
            dataset.check(place)

    def rows(name: str, **changed: object) -> Path:
        row = {"story_id": "a-1", "images": ["a.jpg"], "chain_of_thought": "", "story": "", **changed}
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n")
        return tmp_path / name

    (tmp_path / "secret").write_text("")
    refuse(rows("columns", story=None), r"columns has no column story \(it has story_id, images, chain_of_thought\)")
    refuse(rows("gone"), r"gone, story a-1: the picture a\.jpg cannot be read \(No such file or directory\)")
    refuse(rows("outside", images=["../secret"]), r"story a-1: the picture \.\./secret lies outside of the folder")
    refuse(rows("no-test", images=["data:image/jpeg;base64,"]), r"no-test has no test-\*\.parquet")
    rows("split")
    (tmp_path / "split" / "train.jsonl").rename(tmp_path / "split" / "validation.jsonl")
    refuse(tmp_path / "split", "split has the splits validation; train and test are read")
    (tmp_path / "tar").mkdir()
    (tmp_path / "tar" / "train.tar").write_text("no archive")
    refuse(tmp_path / "tar", r"train\.tar is not a WebDataset \(.*\): a tar archive is expected")
    (tmp_path / "nothing").mkdir()
    refuse(tmp_path / "nothing", "nothing is nothing that `datasets` can load")
    assert not list(tmp_path.glob(".data*"))


def test_a_data_set_without_licence_is_not_published(tmp_path: Path) -> None:
    dataset.write(EXAMPLES, tmp_path, "train")
    dataset.write(sample.examples("test", films=1), tmp_path, "test")
    with pytest.raises(DataError, match=r"has no licence, .* --licence"):
        publishing.prepare_data(tmp_path, "someone/stories")
    with pytest.raises(DataError, match="'stories' is not a repository of the Hub"):
        publishing.prepare_data(tmp_path, "stories", "cc0-1.0")

    made = publishing.prepare_data(tmp_path, "someone/stories", "cc0-1.0")

    assert made.card.startswith("---\nlicense: cc0-1.0\n---\n# Data card\n")
    assert "train-00000-of-00001.parquet" in made.summary()
    assert made.summary().endswith("in total, to someone/stories")


ON_THE_HUB = """
import sys
from pathlib import Path
from storyreason import dataset, publishing

one, two, data = (Path(name) for name in sys.argv[1:])
address = publishing.publish_data(publishing.prepare_data(one, "someone/stories", "cc-by-4.0"))
from huggingface_hub import HfApi
first = HfApi().dataset_info("someone/stories").sha
publishing.publish_data(publishing.prepare_data(two, "someone/stories", "cc-by-4.0"))
for revision, same in ((first, one), (None, two)):
    with dataset.fetched("someone/stories", data, revision=revision) as place:
        assert dataset.compare(same, place).nothing, dataset.compare(same, place).summary()
with dataset.fetched("someone/two", data, config="second") as place:
    assert dataset.compare(two, place).nothing
for name, config, said in (("someone/two", None, "'first', 'second'"), ("someone/none", None, "Repository|doesn't exist")):
    try:
        with dataset.fetched(name, data, config=config):
            raise SystemExit(f"{name} was taken")
    except dataset.exchange.DataError as error:
        assert any(part in str(error) for part in said.split("|")), str(error)
print(address, first)
"""


@pytest.mark.server
def test_a_hub_is_published_to_and_imported_from_by_revision_and_configuration(tmp_path: Path) -> None:
    """The Hub's own client over HTTP. Its upload is that of LFS: Xet, which the real one prefers, needs a service of its own."""
    for name, examples in (("one", EXAMPLES), ("two", EXAMPLES[:2])):
        for split in dataset.SPLITS:
            dataset.write(
                [replace(one, story_id=f"{split}-{one.story_id}") for one in examples], tmp_path / name, split
            )

    with hub.serve() as there:
        files = {
            f"{config}/{path.name}": path.read_bytes()
            for config, name in (("first", "one"), ("second", "two"))
            for path in (tmp_path / name).iterdir()
        }
        configs = "\n".join(f"- config_name: {name}\n  data_dir: {name}" for name in ("first", "second"))
        files["README.md"] = f"---\nconfigs:\n{configs}\n---\n".encode()
        there.repositories["someone/two"] = hub.Repository()
        there.repositories["someone/two"].commit(files)
        environment = {"HF_ENDPOINT": there.address, "HF_TOKEN": "hf_test", "HF_HOME": str(tmp_path / "hf"),
                       "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", ON_THE_HUB, *(str(tmp_path / name) for name in ("one", "two", "data"))],
            env={**os.environ, **environment}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        address, first = done.stdout.split()[-2:]
        published = there.repositories["someone/stories"]

    assert address == f"{there.address}/datasets/someone/stories"
    card = published.commits[first]["README.md"].decode()
    assert "license: cc-by-4.0" in card and "num_examples: 6" in card and "6 + 6 stories (train + test)" in card
    last = next(reversed(published.commits.values()))
    assert "2 + 2 stories (train + test)" in last["README.md"].decode()
    assert {"data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"} < set(last)
    assert not any(path.startswith("first/") for path in _fetched(there, "someone/two"))


def _fetched(there: hub.Hub, name: str) -> list[str]:
    start = f"GET /datasets/{name}/resolve/"
    return [asked.removeprefix(start).partition("/")[2] for asked in there.asked if asked.startswith(start)]
