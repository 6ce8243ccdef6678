"""Where a story's images come from stays in the data, and readers that do not know it read the rest."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from storyreason import dataset, sample

STORIES = list(sample.examples("train", films=2))
FILM = dataset.Origin("black-bicycle-481", (1, 1, 2, 2, 2), (3, 9, 0, 7, 8), (0.5, None, 2.0, 3.0, 4.0), ("a.mp4",) * 5)
KNOWN = [replace(one, origin=FILM) for one in STORIES]


def test_it_is_read_back_and_other_readers_see_it_as_columns(tmp_path: Path) -> None:
    import datasets

    dataset.write(KNOWN, tmp_path, "train")
    assert [one.origin for one in dataset.load(tmp_path, "train")] == [FILM] * len(KNOWN)

    datasets.disable_progress_bars()
    files = [str(path) for path in dataset.shards(tmp_path, "train")]
    rows = datasets.load_dataset("parquet", data_files={"train": files}, split="train", cache_dir=str(tmp_path / "hub"))
    assert rows.column_names == [*dataset.COLUMNS, "film", "scene", "frame", "seconds", "source"]
    assert rows[0]["seconds"] == [0.5, None, 2.0, 3.0, 4.0] and rows[0]["images"][0].size == (196, 112)


def test_without_it_files_are_those_of_before(tmp_path: Path) -> None:
    (file,) = dataset.write(STORIES, tmp_path, "train")
    assert pq.read_schema(file).names == list(dataset.COLUMNS)
    assert all(one.origin is None for one in dataset.load(tmp_path, "train"))


def test_what_is_added_has_the_columns_of_the_data(tmp_path: Path) -> None:
    tests = list(sample.examples("test", films=1))
    for name, old, new in (("known", KNOWN, STORIES), ("unknown", STORIES, KNOWN)):
        dataset.write(old[:2], tmp_path / name, "train")
        dataset.write(tests, tmp_path / name, "test")
        dataset.write(new[2:], tmp_path / f"{name}-more", "train")
        dataset.append(tmp_path / name, tmp_path / f"{name}-more")
        names = {tuple(pq.read_schema(file).names) for file in dataset.shards(tmp_path / name, "train")}
        assert len(names) == 1
        assert [one.origin is None for one in dataset.load(tmp_path / name, "train")][:2] == [name == "unknown"] * 2
        assert dataset.load(tmp_path / name, "train")[2].origin is None
