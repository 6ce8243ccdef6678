"""The table of frames: what is written is read again, and what does not fit is said."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storyreason.errors import DataError
from storyreason.perception import frames
from storyreason.perception.frames import Frame


def some(film: str, count: int) -> list[Frame]:
    return [
        Frame(film, at // 3, at * 10, at / 24 if at % 2 else None, "a.mp4", 8, 6, bytes([at])) for at in range(count)
    ]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rows = [*some("film 2", 40), *some("film 10", 50)]
    assert frames.write(tmp_path / frames.FILE, rows) == 90
    assert list(frames.read(tmp_path)) == rows == list(frames.read(tmp_path / frames.FILE))
    assert list(frames.read(tmp_path, "film 10")) == rows[40:]
    assert frames.films(tmp_path) == {"film 2": 40, "film 10": 50}
    assert [path.name for path in tmp_path.iterdir()] == [frames.FILE]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    frames.write(tmp_path / frames.FILE, some("a", 2))

    def broken() -> object:
        yield from some("b", 40)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        frames.write(tmp_path / frames.FILE, broken())  # type: ignore[arg-type]
    assert frames.films(tmp_path) == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == [frames.FILE]


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no .*frames.parquet: make it from films"):
        frames.films(tmp_path)
    (tmp_path / frames.FILE).write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        list(frames.read(tmp_path))
    pq.write_table(pa.table({"film": ["a"]}), tmp_path / frames.FILE)
    with pytest.raises(DataError, match="has no column scene"):
        list(frames.read(tmp_path))
    pq.write_table(pa.Table.from_pylist([{**vars(some("a", 1)[0]), "scene": "one"}]), tmp_path / frames.FILE)
    with pytest.raises(DataError, match="has `scene` of type string; int32 is required"):
        list(frames.read(tmp_path))
