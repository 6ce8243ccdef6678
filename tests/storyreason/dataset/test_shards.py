"""Parquet shards: the Hub's layout, read lazily, written completely or not at all, errors with clear messages."""

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from storyreason import dataset, sample
from storyreason.errors import DataError

EXAMPLES = list(sample.examples("test", films=4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dataset.write(EXAMPLES, tmp_path, "test", shard_rows=3)
    return tmp_path


def test_what_was_written_reads_back_in_order(folder: Path) -> None:
    read = dataset.load(folder, "test")

    assert [path.name for path in dataset.shards(folder, "test")] == [
        f"test-0000{n}-of-00003.parquet" for n in range(3)
    ]
    assert len(read) == 8
    assert [replace(example, frame_count=None) for example in read] == EXAMPLES
    assert read[-1].story_id == EXAMPLES[-1].story_id
    assert [example.story_id for example in read[2:5]] == [example.story_id for example in EXAMPLES[2:5]]
    assert read.story_ids() == [example.story_id for example in EXAMPLES]
    with pytest.raises(IndexError):
        read[8]


def test_the_hubs_library_sees_pictures_and_numbers(folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    files = [str(path) for path in dataset.shards(folder, "test")]
    rows = datasets.load_dataset("parquet", data_files={"test": files}, split="test", cache_dir=str(folder / "cache"))

    assert rows.column_names == list(dataset.COLUMNS)
    assert rows[0]["images"][0].size == (196, 112)
    assert rows[0]["frame_count"] == len(rows[0]["images"])
    assert rows.features["frame_count"].dtype == "int32"


def test_data_folder_of_a_clone_from_the_hub_is_found(tmp_path: Path) -> None:
    dataset.write(EXAMPLES[:1], tmp_path / "data", "test")
    assert dataset.load(tmp_path, "test")[0].story_id == EXAMPLES[0].story_id


def test_sizes_come_from_the_headers(folder: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((300, 200), 80).save(buffer, "PNG")
    cut = buffer.getvalue()[:100]  # the header and no pixel
    assert dataset.sizes(replace(EXAMPLES[0], images=(cut,))) == [(300, 200)]
    with pytest.raises(
        DataError, match=f"Story {EXAMPLES[0].story_id}, image 2: 7 bytes that are not a readable picture"
    ):
        dataset.sizes(replace(EXAMPLES[0], images=(cut, b"nothing")))


def test_a_writer_that_fails_leaves_the_old_shards_and_no_rubbish(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def examples() -> Iterator[dataset.Example]:
        yield from EXAMPLES[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset.write(examples(), folder, "test", shard_rows=2)

    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_missing_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no train-\*\.parquet"):
        dataset.load(tmp_path, "train")


def test_missing_columns_are_named(folder: Path) -> None:
    path = dataset.shards(folder, "test")[1]
    pq.write_table(pq.read_table(path).drop_columns(["story", "images"]), path)
    with pytest.raises(DataError, match=r"test-00001-of-00003\.parquet has no column images, story") as refused:
        dataset.load(folder, "test")
    assert "required are story_id, images, frame_count, chain_of_thought, story" in str(refused.value)


def test_pictures_that_are_not_in_the_file_are_refused(folder: Path) -> None:
    path = dataset.shards(folder, "test")[0]
    table = pq.read_table(path)
    paths = pa.array([["a.jpg"]] * len(table), pa.list_(pa.string()))
    pq.write_table(table.set_column(1, "images", paths), path)
    with pytest.raises(DataError, match="a list of structs with `bytes` and `path` is required"):
        dataset.load(folder, "test")


def test_a_file_that_is_no_parquet_is_named(folder: Path) -> None:
    dataset.shards(folder, "test")[0].write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"test-00000-of-00003\.parquet is not a parquet file"):
        dataset.load(folder, "test")


TYPES = {
    "int64 IDs": ("story_id", pa.int64(), "`story_id` of type int64; string is required"),
    "counts as text": ("frame_count", pa.string(), "`frame_count` of type string; int32 is required"),
    "no text at all": ("story", pa.null(), "`story` of type null; string is required"),
    "bytes for text": ("chain_of_thought", pa.binary(), "`chain_of_thought` of type binary; string is required"),
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_column_of_another_type_is_refused(kind: str, folder: Path) -> None:
    column, type_, expected = TYPES[kind]
    path = dataset.shards(folder, "test")[0]
    table = pq.read_table(path)
    values = pa.array([None] * len(table), type_)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, values), path)
    with pytest.raises(DataError, match=rf"test-00000-of-00003\.parquet has {re.escape(expected)}: cast the column"):
        dataset.load(folder, "test")


@pytest.mark.parametrize(
    "type_", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_other_types_of_text_read_the_same(type_: pa.DataType, folder: Path) -> None:
    before = list(dataset.load(folder, "test"))
    for path in dataset.shards(folder, "test"):
        table = pq.read_table(path)
        values = pa.chunked_array([table["story"].combine_chunks().cast(pa.string())])
        values = values.dictionary_encode() if pa.types.is_dictionary(type_) else values.cast(type_)
        pq.write_table(table.set_column(table.schema.get_field_index("story"), "story", values), path)
    assert list(dataset.load(folder, "test")) == before


def test_line_ends_and_marks_of_windows_are_read_as_any_other(folder: Path) -> None:
    before = list(dataset.load(folder, "test"))
    odd = [replace(one, story="\ufeff" + one.story.replace("\n", "\r\n"),
                   chain_of_thought=one.chain_of_thought.replace("\n", "\r")) for one in before]  # fmt: skip
    dataset.write(odd, folder, "test")
    assert list(dataset.load(folder, "test")) == before


def test_empty_cells_read_as_nothing(folder: Path) -> None:
    path = dataset.shards(folder, "test")[0]
    table = pq.read_table(path)
    empty = {field.name: pa.nulls(len(table), field.type) for field in table.schema}
    pq.write_table(pa.table(empty, schema=table.schema), path)
    assert dataset.load(folder, "test")[0] == dataset.Example("", (), "", "", None)
