"""Detections of films as a table: what `identify` reads and writes.

One row for each detection, in any order, in a parquet file:

| column | type | meaning |
|---|---|---|
| `film`, `scene`, `frame`, `detection` | string or integer | where it is; `detection` is unique in its film |
| `label` | string | `person`, `dog`; `landmark: …` and `background: …` for these kinds |
| `x1`, `y1`, `x2`, `y2` | number | the box in pixels |
| `score` | number | how sure the detector is |
| `face` | list of floats, or null | the embedding of the face |
| `face_height` | number, or null | the height of the face in pixels |
| `look` | list of floats, or null | the embedding of the whole box |
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyreason.errors import DataError
from storyreason.perception.film import Film, Name, sort_key

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

PLACE = ("film", "scene", "frame", "detection")
NUMBERS = ("x1", "y1", "x2", "y2", "score")
EMBEDDINGS = ("face", "look")
COLUMNS = (*PLACE, "label", *NUMBERS, "face_height", *EMBEDDINGS)
BATCH = 4096
"""Rows that are read at a time."""


class Detections:
    """A table of detections, checked whole before anything is computed from it.

    Raises DataError, which names row and column, for a file that is not parquet, has no rows, lacks a column, or has a
    value that does not fit.
    """

    def __init__(self, path: Path) -> None:
        import numpy as np

        self._path = path
        with _readable(path):
            self._check_columns()
            self._light = self._read_light()
        self._codes = {name: self._coded(name) for name in PLACE}
        self._check_values()
        self._widths = self._check_embeddings()
        film, scene, frame, detection = (self._codes[name][1] for name in PLACE)
        # Rows by film, scene, frame and ID: whatever their order in the file, what follows is the same.
        self._order = np.lexsort((detection, frame, scene, film))
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(film))])

    def __len__(self) -> int:
        return int(self._light.num_rows)

    @property
    def films(self) -> Sequence[Name]:
        """The names of the films, sorted."""
        return self._codes["film"][0]

    def __iter__(self) -> Iterator[Film]:
        """Each film as soon as its last row is read: of a file that is sorted by film, one is in memory at a time."""
        import numpy as np

        film = self._codes["film"][1]
        place = np.empty(len(film), np.int64)  # of a row in its film
        place[self._order] = np.arange(len(film)) - self._starts[film[self._order]]
        sizes, open_films = np.bincount(film), dict[int, dict[str, np.ndarray]]()
        missing = sizes.copy()
        for start, batch in self._batches(EMBEDDINGS):
            rows = film[start : start + batch.num_rows]
            for name in EMBEDDINGS:
                has, vectors = _vectors(batch.column(name), name, start, self._widths[name])
                vectors = _of_length_1(vectors)
                for code in np.unique(rows).tolist():
                    if code not in open_films:
                        shapes = {one: (int(sizes[code]), self._widths[one]) for one in EMBEDDINGS}
                        open_films[code] = {one: np.zeros(shape, np.float32) for one, shape in shapes.items()}
                    here = rows == code
                    filled = np.flatnonzero(here & has) + start
                    open_films[code][name][place[filled]] = vectors[here[has]]
            for code in np.unique(rows).tolist():
                missing[code] -= np.count_nonzero(rows == code)
                if not missing[code]:
                    yield self._film(code, open_films.pop(code))

    def _film(self, code: int, embeddings: "dict[str, np.ndarray]") -> Film:
        import numpy as np

        rows = self._order[self._starts[code] : self._starts[code + 1]]
        (_, scenes), (_, frames) = self._codes["scene"], self._codes["frame"]
        heights = np.nan_to_num(self._numbers("face_height")[rows]).astype(np.float32)
        heights[~embeddings["face"].any(axis=1)] = 0
        table = self._light.take(rows)
        names = {name: table.column(name).to_pylist() for name in ("scene", "frame", "detection", "label")}
        pairs = np.stack([scenes[rows], frames[rows]], axis=1)
        return Film(
            self.films[code],
            names["detection"],
            names["label"],
            names["scene"],
            names["frame"],
            np.unique(scenes[rows], return_inverse=True)[1].reshape(-1),
            np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1),
            np.stack([self._numbers(name)[rows] for name in NUMBERS[:4]], axis=1),
            embeddings["face"],
            heights,
            embeddings["look"],
        )

    def _numbers(self, name: str) -> "np.ndarray":
        """A column of numbers as float64, NaN for null."""
        import pyarrow as pa

        found: np.ndarray = self._light.column(name).cast(pa.float64()).to_numpy()
        return found

    def _coded(self, name: str) -> "tuple[list[Name], np.ndarray]":
        """The values of a column sorted with numbers as numbers, and for each row the place of its value among them."""
        import numpy as np

        column = self._light.column(name)
        if column.null_count:
            raise DataError(
                f"{self._row(int(np.flatnonzero(column.is_null())[0]))} has no {name}: every row needs one."
            )
        coded = column.combine_chunks().dictionary_encode()
        values = coded.dictionary.to_pylist()
        order = sorted(range(len(values)), key=lambda at: sort_key(values[at]))
        rank = np.empty(len(values), np.int64)
        rank[order] = np.arange(len(values))
        return [values[at] for at in order], rank[coded.indices.to_numpy()]

    def _row(self, number: int) -> str:
        return f"{self._path}, row {number + 1},"

    def _batches(self, columns: Sequence[str]) -> "Iterator[tuple[int, pa.RecordBatch]]":
        import pyarrow.parquet as pq

        start = 0
        with _readable(self._path), pq.ParquetFile(self._path, memory_map=True) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=list(columns)):
                yield start, batch
                start += batch.num_rows

    def _check_columns(self) -> None:
        import pyarrow.parquet as pq

        schema = pq.read_schema(self._path)
        missing = [name for name in COLUMNS if name not in schema.names]
        if missing:
            raise DataError(
                f"{self._path} has no column {', '.join(missing)} (it has {', '.join(schema.names)}); required are "
                f"{', '.join(COLUMNS)}."
            )
        for name in COLUMNS:
            wanted, fits = _wanted(name)
            if not fits(schema.field(name).type):
                raise DataError(f"{self._path} has `{name}` of type {schema.field(name).type}; {wanted} is required.")

    def _read_light(self) -> "pa.Table":
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._path, memory_map=True) as file:
            table = file.read(columns=[name for name in COLUMNS if name not in EMBEDDINGS])
        if not table.num_rows:
            raise DataError(f"{self._path} has no rows: there is nothing to identify.")
        return table

    def _check_values(self) -> None:
        import numpy as np

        if self._light.column("label").null_count:
            bad = int(np.flatnonzero(self._light.column("label").is_null())[0])
            raise DataError(f"{self._row(bad)} has no label: name what was detected, such as `person`.")
        x1, y1, x2, y2, score = (self._numbers(name) for name in NUMBERS)
        # Comparisons with NaN are false.
        inside = (x1 < x2) & (y1 < y2) & np.isfinite(x1 + y1 + x2 + y2)
        if not inside.all():
            bad = int(np.flatnonzero(~inside)[0])
            raise DataError(
                f"{self._row(bad)} has the box {x1[bad]:g},{y1[bad]:g},{x2[bad]:g},{y2[bad]:g}; "
                "x1 < x2 and y1 < y2 are required, in pixels."
            )
        if not np.isfinite(score).all():
            raise DataError(f"{self._row(int(np.flatnonzero(~np.isfinite(score))[0]))} has no finite score.")
        (films, film), (ids, detection) = self._codes["film"], self._codes["detection"]
        _, first, count = np.unique(film * len(ids) + detection, return_index=True, return_counts=True)
        if count.max() > 1:
            bad = int(first[count > 1].min())
            raise DataError(
                f"{self._path} has detection {ids[detection[bad]]!r} of film {films[film[bad]]!r} "
                f"{count[count > 1][np.argmin(first[count > 1])]} times: the ID of a detection is unique in its film."
            )

    def _check_embeddings(self) -> dict[str, int]:
        """The lengths of the embeddings, once every one is read: one that is unusable is found before hours of work."""
        import numpy as np

        widths, heights = dict.fromkeys(EMBEDDINGS, 0), self._numbers("face_height")
        for start, batch in self._batches(EMBEDDINGS):
            for name in EMBEDDINGS:
                try:
                    has, vectors = _vectors(batch.column(name), name, start, widths[name])
                except DataError as error:
                    raise DataError(f"{self._path}, {error}") from None
                widths[name] = vectors.shape[1]
                if name == "face":
                    unsized = has & ~(
                        np.isfinite(heights[start : start + len(has)]) & (heights[start : start + len(has)] > 0)
                    )
                    if unsized.any():
                        bad = start + int(np.flatnonzero(unsized)[0])
                        raise DataError(f"{self._row(bad)} has a face, but no face_height in pixels.")
        return widths


Result = tuple[Sequence[Name], Sequence[str], "np.ndarray"]
"""The IDs of a film's detections, the entity of each, and its probability (NaN becomes null)."""


def write(path: Path, source: Detections, results: Mapping[Name, Result]) -> None:
    """Writes `film, detection, entity, probability` by film, scene, frame and ID, completely or not at all.

    `results` has each film of `source`. Raises DataError if the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from storyreason import runs

    columns: dict[str, list[Any]] = {"film": [], "detection": [], "entity": [], "probability": []}
    for name in source.films:
        ids, entities, probabilities = results[name]
        columns["film"] += [name] * len(ids)
        columns["detection"] += ids
        columns["entity"] += entities
        columns["probability"] += [None if one != one else one for one in probabilities.tolist()]
    types = {name: pa.string() if isinstance(columns[name][0], str) else pa.int64() for name in ("film", "detection")}
    schema = pa.schema({**types, "entity": pa.string(), "probability": pa.float32()})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema), sink)
    try:
        runs.write_bytes(path, sink.getvalue().to_pybytes())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.") from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise DataError(f"There is no file {path}: name a parquet file of detections.") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet ({error}): write the detections again.") from error


def _wanted(column: str) -> tuple[str, Any]:
    """The type of a column in words, and whether a type is one."""
    from pyarrow import types

    def text(kind: "pa.DataType") -> bool:
        return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))

    def number(kind: "pa.DataType") -> bool:
        return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind))

    def embedding(kind: "pa.DataType") -> bool:
        if types.is_null(kind):
            return True
        lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        return bool(lists and types.is_floating(kind.value_type))

    if column in PLACE:
        return "string or integer", lambda kind: text(kind) or types.is_integer(kind)
    if column == "label":
        return "string", text
    return ("list of float32", embedding) if column in EMBEDDINGS else ("a number", number)


def _vectors(column: "pa.Array", name: str, start: int, width: int) -> "tuple[np.ndarray, np.ndarray]":
    """Which rows have an embedding, and these as float32 of shape [number, width]. `width` is 0 while it is unknown."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(column.type) or column.null_count == len(column):
        return np.zeros(len(column), bool), np.zeros((0, width), np.float32)
    has = np.asarray(column.is_valid())
    rows, lengths = np.flatnonzero(has) + start, np.asarray(pc.list_value_length(column).drop_null())
    width = width or int(lengths[0])
    if (lengths != width).any() or not width:
        bad = int(np.flatnonzero((lengths != width) | (lengths == 0))[0])
        raise DataError(
            f"row {rows[bad] + 1}, has a {name} of {lengths[bad]} numbers where others have {width}: "
            "the embeddings of a table come from one model."
        )
    with np.errstate(over="ignore"):
        vectors = np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(-1, width)
    usable = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    if not usable.all():
        bad = int(np.flatnonzero(~usable)[0])
        what = "of zeros alone" if np.isfinite(vectors[bad]).all() else "with a number that is missing or not finite"
        raise DataError(f"row {rows[bad] + 1}, has a {name} {what}: leave it out (null) or compute it again.")
    return has, vectors


def _of_length_1(vectors: "np.ndarray") -> "np.ndarray":
    import numpy as np

    # Divided by the largest value first, so that no square overflows or vanishes.
    vectors = vectors / np.abs(vectors).max(axis=1, initial=1e-38, keepdims=True)
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled
