"""Films as tables: rows in the columns of `storyreason.perception.detections`, and the parquet file of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import films
from storyreason.perception import Film

Row = dict[str, Any]
TYPES = {"face": pa.list_(pa.float32()), "look": pa.list_(pa.float32()), "face_height": pa.float64()}


def rows(film: Film) -> list[Row]:
    """The film's detections as rows, in its order."""
    found: list[Row] = films.table(film).to_pylist()
    return found


def write(path: Path, given: Iterable[Row], **types: Any) -> Path:
    """A parquet file with these rows. `types` replaces the types of columns."""
    table = pa.Table.from_pylist(list(given))
    for name, kind in {**TYPES, **types}.items():
        if name in table.column_names:
            at = table.column_names.index(name)
            table = table.set_column(at, name, table.column(name).cast(kind))
    pq.write_table(table, path, row_group_size=100)
    return path


def read(path: Path) -> dict[tuple[Any, Any], tuple[str, float | None]]:
    """The result in a file: entity and probability by film and detection."""
    return {
        (row["film"], row["detection"]): (row["entity"], row["probability"]) for row in pq.read_table(path).to_pylist()
    }
