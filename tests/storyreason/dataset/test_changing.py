"""Changes to a data set: stories are added, duplicates rejected, differences reported."""

from dataclasses import replace
from pathlib import Path

import pytest

from storyreason import dataset, sample
from storyreason.errors import DataError

TRAIN = list(sample.examples("train", films=4))
TEST = list(sample.examples("test", films=2))


def made(folder: Path, train: list[dataset.Example], test: list[dataset.Example]) -> Path:
    for split, examples in (("train", train), ("test", test)):
        if examples:
            dataset.write(examples, folder, split, shard_rows=3)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return made(tmp_path / "data", TRAIN[:4], TEST[:2])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_new_stories_join_as_new_shards_and_old_shards_keep_their_bytes(data: Path, tmp_path: Path) -> None:
    before = [path.read_bytes() for path in dataset.shards(data, "train")]

    change = dataset.append(data, made(tmp_path / "new", TRAIN[4:], TEST[2:]))

    assert [path.read_bytes() for path in dataset.shards(data, "train")][: len(before)] == before
    assert [path.name for path in dataset.shards(data, "train")] == [
        f"train-{n:05d}-of-00003.parquet" for n in range(3)
    ]
    assert dataset.load(data, "train").story_ids() == [example.story_id for example in TRAIN]
    assert dataset.load(data, "test").story_ids() == [example.story_id for example in TEST]
    assert change.added == {"train": tuple(e.story_id for e in TRAIN[4:]), "test": tuple(e.story_id for e in TEST[2:])}
    assert "train: 4 -> 8 stories, 4 added" in change.summary()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "new"]


def test_one_split_alone_can_join(data: Path, tmp_path: Path) -> None:
    change = dataset.append(data, made(tmp_path / "new", TRAIN[4:6], []))
    assert change.after == {"train": 6, "test": 2}


def test_a_story_that_is_there_is_refused_in_any_split(data: Path, tmp_path: Path) -> None:
    before = contents(data)
    for number, (train, test) in enumerate((([TRAIN[0]], []), ([], [TRAIN[0]]))):
        with pytest.raises(DataError, match=f"already in .*data .{TRAIN[0].story_id}"):
            dataset.append(data, made(tmp_path / f"new{number}", train, test))
    assert contents(data) == before


def test_a_film_stays_in_its_split(data: Path, tmp_path: Path) -> None:
    film = TRAIN[0].story_id.rpartition("-")[0]
    with pytest.raises(DataError, match=f"film {film} has stories in train"):
        dataset.append(data, made(tmp_path / "new", [], [replace(TEST[2], story_id=f"{film}-9")]))


def test_bad_stories_are_refused_and_nothing_changes(data: Path, tmp_path: Path) -> None:
    before = contents(data)
    with pytest.raises(DataError, match="does not decode"):
        dataset.append(data, made(tmp_path / "new", [replace(TRAIN[5], images=(b"\xff\xd8nothing",))], []))
    assert contents(data) == before


def test_an_empty_folder_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with pytest.raises(DataError, match="has no stories"):
        dataset.append(data, tmp_path / "new")


def test_another_data_set_takes_the_place_of_one_and_the_report_says_what_differs(data: Path, tmp_path: Path) -> None:
    rewritten = replace(TRAIN[1], story=TRAIN[1].story + "\n")
    source = made(tmp_path / "new", [rewritten, *TRAIN[2:4], TRAIN[4], TEST[0]], TEST[1:2])

    change = dataset.adopt(data, source)

    assert contents(data) == contents(source)
    assert change.rewritten["train"] == (TRAIN[1].story_id,)
    assert change.removed["train"] == (TRAIN[0].story_id,)
    assert change.added["train"] == (TRAIN[4].story_id,)
    assert change.moved == (TEST[0].story_id,)
    assert "another split" in change.summary()
    assert dataset.adopt(data, source).summary() == "nothing changed"


def test_without_data_before_all_is_new(tmp_path: Path) -> None:
    change = dataset.adopt(tmp_path / "data", made(tmp_path / "new", TRAIN[:2], TEST[:1]))
    assert change.before == {"train": 0, "test": 0}
    assert len(change.added["train"]) == 2
