"""The table of detections: what is read, and what is said about a table that cannot be."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import films
from storyreason.errors import DataError
from storyreason.perception import Detections
from tests.storyreason.perception import tables
from tests.storyreason.perception.tables import Row


@pytest.fixture
def rows() -> list[Row]:
    return tables.rows(films.film(4, 1.0, 60)[0])


def test_a_film_is_read_as_it_was(rows: list[Row], tmp_path: Path) -> None:
    film, _ = films.film(4, 1.0, 60)
    (read,) = Detections(tables.write(tmp_path / "one.parquet", rows))
    for name in ("name", "ids", "labels", "scene_names", "frame_names"):
        assert getattr(read, name) == getattr(film, name)
    for name in ("scenes", "frames", "boxes", "face_heights"):
        assert np.array_equal(getattr(read, name), getattr(film, name))
    for name in ("faces", "looks"):
        assert np.allclose(getattr(read, name), getattr(film, name), atol=1e-6)


def test_numbers_in_names_are_sorted_as_numbers(rows: list[Row], tmp_path: Path) -> None:
    for row in rows:
        row["frame"] = f"frame-{row['frame']}"
        row["detection"] = f"{row['detection']}"
    (read,) = Detections(tables.write(tmp_path / "text.parquet", reversed(rows)))
    assert read.ids == [str(number) for number in range(60)]
    assert (np.diff(read.frames) >= 0).all()


@pytest.mark.parametrize(
    "types",
    [
        {"face": pa.large_list(pa.float64()), "look": pa.large_list(pa.float64())},
        {"look": pa.list_(pa.float32(), 192)},
        {"look": pa.list_(pa.float16())},
        {"label": pa.large_string(), "x1": pa.int32(), "frame": pa.int8()},
    ],
)
def test_other_types_of_the_same_values_are_read(
    rows: list[Row], tmp_path: Path, types: dict[str, pa.DataType]
) -> None:
    (plain,) = Detections(tables.write(tmp_path / "plain.parquet", rows))
    (read,) = Detections(tables.write(tmp_path / "other.parquet", rows, **types))
    assert np.allclose(read.looks, plain.looks, atol=1e-3)
    assert np.array_equal(read.boxes, plain.boxes)


def test_films_are_read_one_by_one_from_a_sorted_table(tmp_path: Path) -> None:
    """A table of many films does not have to fit in memory."""
    given = [row for name in "abc" for row in tables.rows(films.film(1, 1.0, 3000, name)[0])]
    table = Detections(tables.write(tmp_path / "three.parquet", given))
    read = iter(table)
    next(read)
    assert read.gi_frame.f_locals["open_films"].keys() <= {1}  # type: ignore[attr-defined]
    assert [film.name for film in read] == ["b", "c"]


def without(name: str) -> Any:
    return lambda row: row.pop(name)


def put(name: str, value: Any) -> Any:
    return lambda row: row.update({name: value})


FAULTS = {
    "a null frame": (put("frame", None), "row 8, has no frame: every row needs one"),
    "a null label": (put("label", None), "row 8, has no label"),
    "an inverted box": (put("x2", -1.0), r"row 8, has the box .*; x1 < x2 and y1 < y2 are required, in pixels"),
    "a box without a number": (put("y1", float("nan")), "row 8, has the box"),
    "a null score": (put("score", None), "row 8, has no finite score"),
    "a look of another length": (put("look", [1.0, 2.0]), "row 8, has a look of 2 numbers where others have 192"),
    "an empty look": (put("look", []), "row 8, has a look of 0 numbers where others have 192"),
    "a look with NaN": (
        put("look", [float("nan")] * 192),
        "row 8, has a look with a number that is missing or not finite",
    ),
    "a look with null": (put("look", [None] * 192), "row 8, has a look with a number that is missing or not finite"),
    "a look that overflows": (
        put("look", [1e300] * 192),
        "row 8, has a look with a number that is missing or not finite",
    ),
    "a look of zeros": (put("look", [0.0] * 192), "row 8, has a look of zeros alone"),
    "a face without its height": (
        lambda row: row.update({"face": [1.0] * 128, "face_height": None}),
        "row 8, has a face, but no face_height in pixels",
    ),
    "a face of no height": (lambda row: row.update({"face": [1.0] * 128, "face_height": 0.0}), "but no face_height"),
    "an ID that is there already": (put("detection", 3), "has detection 3 of film 'film' 2 times"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_that_cannot_be_used_is_named(rows: list[Row], tmp_path: Path, fault: str) -> None:
    change, said = FAULTS[fault]
    change(rows[7])
    path = tables.write(tmp_path / "faulty.parquet", rows, look=pa.list_(pa.float64()))
    with pytest.raises(DataError, match=said) as error:
        Detections(path)
    assert str(error.value).startswith(str(path))
    assert str(error.value).count(". ") == 0


@pytest.mark.parametrize("name", ["film", "label", "face", "face_height"])
def test_a_missing_column_is_named(rows: list[Row], tmp_path: Path, name: str) -> None:
    for row in rows:
        row.pop(name)
    with pytest.raises(DataError, match=rf"has no column {name} \(it has "):
        Detections(tables.write(tmp_path / "less.parquet", rows))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("frame", pa.float64()), ("label", pa.int64()), ("x1", pa.string()), ("look", pa.string()), ("film", pa.binary())],
)
def test_a_column_of_another_type_is_named(rows: list[Row], tmp_path: Path, name: str, kind: pa.DataType) -> None:
    values = {"look": "x", "label": 1, "x1": "1"}
    for row in rows:
        row[name] = values.get(name, row[name])
    types = {name: kind}
    with pytest.raises(DataError, match=rf"has `{name}` of type {re.escape(str(kind))}; .* is required"):
        Detections(tables.write(tmp_path / "typed.parquet", rows, **types))


def test_a_table_without_rows_is_named(rows: list[Row], tmp_path: Path) -> None:
    path = tables.write(tmp_path / "one.parquet", rows)
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(DataError, match="has no rows: there is nothing to identify"):
        Detections(path)


def test_what_is_not_parquet_is_named(rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        Detections(tmp_path / "none.parquet")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        Detections(tmp_path)
    (tmp_path / "text.parquet").write_text("film,scene\n")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        Detections(tmp_path / "text.parquet")
    path = tables.write(tmp_path / "cut.parquet", rows)
    content = bytearray(path.read_bytes())
    content[200:3000] = bytes(2800)  # the data, not the schema at the end
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as parquet"):
        Detections(path)


def test_a_table_without_any_embedding_is_read(rows: list[Row], tmp_path: Path) -> None:
    for row in rows:
        row.update(face=None, face_height=None, look=None)
    (film,) = Detections(tables.write(tmp_path / "bare.parquet", rows))
    assert film.faces.shape == film.looks.shape == (60, 0)
