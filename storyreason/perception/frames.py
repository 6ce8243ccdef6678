"""The kept frames of films as a table: what `storyreason frames` writes, and detectors and authors read.

A folder with `frames.parquet`, one row for each frame, sorted by film, scene and frame, with numbers in names as numbers:

| column | type | meaning |
|---|---|---|
| `film` | string | the film's name |
| `scene` | integer | the scene (what is between two cuts), counted from 0 in its film |
| `frame` | integer | the frame, counted from 0 in its film, those that are not kept included |
| `seconds` | number, or null | when it is shown; null for pictures |
| `source` | string | the file that it comes from: of a video its name, of a picture its path in the film's folder |
| `width`, `height` | integer | pixels |
| `image` | binary | a JPEG that every decoder reads alike (`storyreason.pictures.canonical`) |
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from storyreason import runs
from storyreason.errors import DataError, RunError
from storyreason.perception.film import sort_key

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Metadata = Callable[[], Mapping[str, str]]
FILE = "frames.parquet"
GONE = "storyreason.withdrawn"
"""In the metadata: film, scene and frame of those that were removed with one of the people in them."""
BATCH = 32
"""Frames that are read at a time, and rows of a row group."""


@dataclass(frozen=True)
class Frame:
    """A kept frame of a film: a row of the table."""

    film: str
    scene: int
    frame: int
    seconds: float | None
    source: str
    width: int
    height: int
    image: bytes

    @property
    def place(self) -> str:
        """Where it is, for messages: `frame 12 of film 'clara'`."""
        return f"frame {self.frame} of film {self.film!r}"


def schema() -> "pa.Schema":
    """The columns and their types, in order."""
    import pyarrow as pa

    types = {"film": pa.string(), "scene": pa.int32(), "frame": pa.int32(), "seconds": pa.float64(),
             "source": pa.string(), "width": pa.int32(), "height": pa.int32(), "image": pa.binary()}  # fmt: skip
    return pa.schema([pa.field(name, kind, nullable=name == "seconds") for name, kind in types.items()])


def write(path: Path, frames: Iterable[Frame], metadata: Metadata = dict) -> int:
    """Write frames, in the order they come in, completely or not at all. Returns how many there are.

    `metadata` is called after the last frame. Raises RunError if the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    count, unfinished = 0, path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Encoded pictures do not get smaller by compression.
        with pq.ParquetWriter(unfinished, schema(), compression="none") as writer:
            for rows in _groups(frames):
                writer.write_table(pa.Table.from_pylist([asdict(one) for one in rows], schema()))
                count += len(rows)
            writer.add_key_value_metadata(metadata())
        unfinished.rename(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def unwritable(path: Path, error: OSError) -> RunError:
    """The sentence for a table that cannot be written."""
    if why := runs.disk_fault(error):
        return RunError(f"{path} cannot be written ({why}): make room, and start again; films that are done are kept.")
    return RunError(f"{path} cannot be written: {error.strerror or error}.")


def metadata(folder: Path) -> dict[str, str]:
    """What `write` was given. Raises DataError."""
    import pyarrow.parquet as pq

    path = _file(folder)
    with _readable(path):
        found = pq.read_metadata(path).metadata or {}
    return {key.decode(): value.decode() for key, value in found.items()}


def gone(folder: Path) -> list[tuple[str, int, int]]:
    """Film, scene and frame of what was removed because somebody in it was withdrawn. Raises DataError."""
    return [tuple(one) for one in json.loads(metadata(folder).get(GONE, "[]"))]


def _groups(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Rows to write at once: of one film, so that a film is read without the others."""
    waiting: list[Frame] = []
    for frame in frames:
        if waiting and (len(waiting) == BATCH or frame.film != waiting[0].film):
            yield waiting
            waiting = []
        waiting.append(frame)
    if waiting:
        yield waiting


def read(folder: Path, film: str | None = None) -> Iterator[Frame]:
    """The frames of a folder, of one film or of all, in order; few are in memory at a time. Raises DataError."""
    import pyarrow.parquet as pq

    path = _file(folder)
    with _readable(path), pq.ParquetFile(path, memory_map=True) as file:
        columns = _columns(path)
        groups = [at for at in range(file.num_row_groups) if film is None or _has(file, at, film)]
        for batch in file.iter_batches(batch_size=BATCH, row_groups=groups, columns=columns):
            rows = (Frame(**row) for row in batch.to_pylist())
            yield from (frame for frame in rows if film in (None, frame.film))


def films(folder: Path) -> dict[str, int]:
    """How many frames each film of a folder has, in the order of the table; no picture is read. Raises DataError."""
    import pyarrow.parquet as pq

    path = _file(folder)
    with _readable(path):
        _columns(path)
        counted = pq.read_table(path, columns=["film"]).column("film").value_counts().to_pylist()
    return {row["values"]: row["counts"] for row in sorted(counted, key=lambda row: sort_key(row["values"]))}


def _has(file: "pq.ParquetFile", group: int, film: str) -> bool:
    """Whether a row group may have frames of a film; where nothing is known, it may."""
    known = file.metadata.row_group(group).column(0).statistics
    return known is None or not known.has_min_max or known.min <= film <= known.max


def _file(folder: Path) -> Path:
    """The table of a folder, which may also be named itself."""
    return folder if folder.suffix == ".parquet" else folder / FILE


def _columns(path: Path) -> list[str]:
    """The columns by name. Raises DataError for a file that lacks one, or has one of another type."""
    import pyarrow.parquet as pq

    found, wanted = pq.read_schema(path), schema()
    for field in wanted:
        if field.name not in found.names:
            raise DataError(
                f"{path} has no column {field.name} (it has {', '.join(found.names)}): make it by `storyreason frames`."
            )
        if found.field(field.name).type != field.type:
            raise DataError(
                f"{path} has `{field.name}` of type {found.field(field.name).type}; {field.type} is required."
            )
    return [field.name for field in fields(Frame)]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise DataError(
            f"There is no {path}: make it from films by `storyreason frames FILMS --out {path.parent}`."
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as parquet ({error}): make it again by `storyreason frames`."
        ) from error
