"""A model's answers by story, from a folder of `{story_id}.txt`, or a jsonl or parquet file."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from storyreason.errors import DataError
from storyreason.format.plain import plain

COLUMNS = ("story_id", "prediction")


def load(path: Path | str) -> dict[str, str]:
    """The answers by story id, in the order of the file (of a folder: by name).

    Raises DataError that names file and row: nothing there, no UTF-8, no or other columns, a story told twice.
    """
    path = Path(path)
    if path.is_dir():
        pairs = _from_folder(path)
    elif not path.exists():
        raise DataError(f"There is no {path}; wanted a folder of {{story_id}}.txt, or a jsonl or parquet file.")
    elif path.suffix == ".jsonl":
        pairs = _from_jsonl(path)
    elif path.suffix == ".parquet":
        pairs = _from_parquet(path)
    else:
        raise DataError(f"{path} is neither a folder of {{story_id}}.txt nor a .jsonl or .parquet file.")
    predictions: dict[str, str] = {}
    for place, story_id, prediction in pairs:
        if not isinstance(story_id, str) or not isinstance(prediction, str):
            raise DataError(f"{place} has a {type(story_id).__name__} as story_id and a {type(prediction).__name__} as "
                            "prediction; wanted two texts.")  # fmt: skip
        if story_id in predictions:
            raise DataError(f"{place} tells story {story_id!r} a second time: keep one answer of each story.")
        predictions[story_id] = plain(prediction)
    if not predictions:
        raise DataError(f"{path} holds no prediction; wanted at least one story_id with its prediction.")
    return predictions


def read_text(path: Path) -> str:
    """A text file's content, as `plain` reads it. Raises DataError when it is missing or not UTF-8."""
    try:
        return plain(path.read_bytes().decode())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error


def _from_folder(path: Path) -> Iterator[tuple[str, Any, Any]]:
    files = sorted(path.glob("*.txt"))
    if not files:
        raise DataError(f"{path} holds no .txt file; wanted one {{story_id}}.txt for each story.")
    return ((str(file), file.stem, read_text(file)) for file in files)


def _from_jsonl(path: Path) -> Iterator[tuple[str, Any, Any]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number},"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{place} is no JSON ({error.msg}); wanted one object on each line.") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
            raise DataError(f"{place} is no JSON ({error}); wanted one object on each line.") from error
        if not isinstance(row, dict):
            raise DataError(f"{place} is no JSON object; wanted {', '.join(COLUMNS)} in each.")
        _columns(place, row)
        yield place, row["story_id"], row["prediction"]


def _from_parquet(path: Path) -> Iterator[tuple[str, Any, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is no parquet file ({error}).") from error
    with file:
        _columns(str(path), file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(columns=list(COLUMNS)):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number},", row["story_id"], row["prediction"]


def _columns(place: str, names: Iterable[str]) -> None:
    names = list(names)
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise DataError(
            f"{place} has no {' and no '.join(missing)} (it has {', '.join(names)}); wanted {', '.join(COLUMNS)}."
        )
