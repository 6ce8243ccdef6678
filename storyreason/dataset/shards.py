"""Parquet shards in the Hub's layout: read lazily, and written completely or not at all.

    data/train-00000-of-00002.parquet
    data/train-00001-of-00002.parquet
    data/test-00000-of-00001.parquet

Columns: `story_id`, `images` (structs of `bytes` and `path`), `frame_count`, `chain_of_thought`, `story`; those of `origin`
where the films are known.
"""

import bisect
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyreason import pictures
from storyreason.dataset import origin
from storyreason.dataset.origin import Origin
from storyreason.errors import DataError
from storyreason.format.plain import plain

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "test")
ROW_GROUP = 50
"""Rows that are written and read at a time: pictures are compressed already, and small groups keep random access cheap."""
COLUMNS = ("story_id", "images", "frame_count", "chain_of_thought", "story")


@dataclass(frozen=True, slots=True)
class Example:
    """One row: the encoded images in order, the analysis and the grounded story."""

    story_id: str
    images: tuple[bytes, ...]
    chain_of_thought: str
    story: str
    frame_count: int | None = None
    """The value of the column; None for an example that was not read from a file."""
    origin: Origin | None = None
    """Where the images come from, if the data set says so."""


class Split(Sequence[Example]):
    """The examples of one split, in the order of the shards. Rows are read on access; ordinary pictures are not decoded."""

    def __init__(self, files: Sequence[Path], raw: bool = False) -> None:
        import pyarrow.parquet as pq

        self._raw = raw

        self._files = [pq.ParquetFile(path, memory_map=True) for path in files]
        self._columns = [[*COLUMNS, *(origin.COLUMNS if origin.has(file.schema_arrow) else ())] for file in self._files]
        # The first row of each row group: [(0, file 0, group 0), (100, file 0, group 1), ...]
        self._groups: list[tuple[int, int, int]] = []
        self._length = 0
        for number, file in enumerate(self._files):
            for group in range(file.metadata.num_row_groups):
                self._groups.append((self._length, number, group))
                self._length += file.metadata.row_group(group).num_rows
        self._starts = [start for start, _, _ in self._groups]
        self._cached: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        group = bisect.bisect_right(self._starts, index) - 1
        if self._cached[0] != group:
            _, file, number = self._groups[group]
            self._cached = (group, self._files[file].read_row_group(number, columns=self._columns[file]))
        return of_row(self._cached[1].slice(index - self._starts[group], 1).to_pylist()[0], self._raw)

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    def story_ids(self) -> list[str]:
        """The ID of every story, without reading pictures or texts."""
        return [
            value for file in self._files for value in file.read(columns=["story_id"]).column("story_id").to_pylist()
        ]


def of_row(row: Mapping[str, Any], raw: bool) -> Example:
    """A row of the published columns, whose images are structs with `bytes`, as an example.

    An empty cell becomes empty bytes or an empty text, which `check` then names.
    """
    images = tuple((image or {}).get("bytes") or b"" for image in row["images"] or ())
    texts = (plain(row["chain_of_thought"] or ""), plain(row["story"] or ""))
    example = Example(row["story_id"] or "", images, *texts, row["frame_count"], origin.read(row))
    return example if raw else as_stored(example)


def as_stored(example: Example) -> Example:
    """A row read with `raw` as it is without: with the pictures of `pictures.as_stored`."""
    return replace(example, images=tuple(map(pictures.as_stored, example.images)))


def shards(folder: Path, split: str) -> list[Path]:
    """The files of a split in order, from the folder or its `data/` (the layout of a clone from the Hub)."""
    folder = Path(folder)
    for place in (folder, folder / "data"):
        found = sorted(place.glob(f"{split}-*.parquet"))
        if found:
            return found
    raise DataError(
        f"{folder} has no {split}-*.parquet (shards in the Hub's layout): pull the data, or name another folder."
    )


def load(folder: Path | str, split: str, raw: bool = False) -> Split:
    """The examples of a split as a lazy sequence. Raises DataError when shards or columns are missing.

    Pictures are those of `pictures.as_stored`; with `raw`, the bytes in the files, to be normalized or named.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = shards(Path(folder), split)
    for file in files:
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{file} is not a parquet file ({error}): pull or create the data again.") from error
        missing = [column for column in COLUMNS if column not in schema.names]
        if missing:
            raise DataError(
                f"{file} has no column {', '.join(missing)} (it has {', '.join(schema.names)}); required are "
                f"{', '.join(COLUMNS)}: create the data set again, or rename its columns."
            )
        _check_types(file, schema)
    return Split(files, raw)


def _check_types(file: Path, schema: "pa.Schema") -> None:
    """Raises DataError unless each column has the published type, or one that reads as the same values."""
    from pyarrow import types

    def is_text(kind: "pa.DataType") -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return any(one(kind) for one in (types.is_string, types.is_large_string, types.is_string_view))

    def is_bytes(kind: "pa.DataType") -> bool:
        return any(one(kind) for one in (types.is_binary, types.is_large_binary, types.is_binary_view))

    for column in COLUMNS:
        kind = schema.field(column).type
        if column == "images":
            if not (types.is_list(kind) or types.is_large_list(kind)) or not (
                types.is_struct(kind.value_type)
                and kind.value_type.get_field_index("bytes") >= 0
                and is_bytes(kind.value_type.field("bytes").type)
            ):
                raise DataError(
                    f"{file} has `images` of type {kind}; a list of structs with `bytes` and `path` is required: "
                    "embed the pictures in the file, as the Image feature of `datasets` does."
                )
        elif not (types.is_integer if column == "frame_count" else is_text)(kind):
            wanted = "int32" if column == "frame_count" else "string"
            raise DataError(f"{file} has `{column}` of type {kind}; {wanted} is required: cast the column.")


def _schema(with_origin: bool) -> "pa.Schema":
    """The schema of the published data set, with the metadata that tells `datasets` that `images` are pictures."""
    import pyarrow as pa

    text = {"dtype": "string", "_type": "Value"}
    features = {
        "story_id": text,
        "images": {"feature": {"_type": "Image"}, "_type": "List"},
        "frame_count": {"dtype": "int32", "_type": "Value"},
        "chain_of_thought": text,
        "story": text,
        **(origin.features() if with_origin else {}),
    }
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.schema(
        [
            ("story_id", pa.string()),
            ("images", pa.list_(picture)),
            ("frame_count", pa.int32()),
            ("chain_of_thought", pa.string()),
            ("story", pa.string()),
            *(origin.fields() if with_origin else ()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def write(
    examples: Iterable[Example],
    folder: Path | str,
    split: str,
    shard_rows: int = 500,
    with_origin: bool | None = None,
) -> list[Path]:
    """Writes a split as shards of `shard_rows` examples and replaces its old shards.

    `with_origin`: whether the shards have the columns of `origin`; by default if the first example has one. The same examples
    give the same bytes. Pictures become canonical (`pictures.canonical`); one that does not decode is written as it is, for
    `check` to name. Files are written under temporary names and renamed once all are complete.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary: list[Path] = []
    source = iter(examples)
    waiting = list(islice(source, 1))
    if with_origin is None:
        with_origin = any(one.origin is not None for one in waiting)
    try:
        while waiting or not temporary:
            path = folder / f".{split}-{len(temporary):05d}.parquet.part"
            temporary.append(path)
            _write_shard(chain(waiting, source), path, shard_rows, with_origin)
            waiting = list(islice(source, 1))
        for old in folder.glob(f"{split}-*.parquet"):
            old.unlink()
        names = [folder / f"{split}-{number:05d}-of-{len(temporary):05d}.parquet" for number in range(len(temporary))]
        for path, name in zip(temporary, names, strict=True):
            path.rename(name)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
    return names


def _write_shard(examples: Iterator[Example], path: Path, rows: int, with_origin: bool) -> None:
    """Writes the next examples as a shard. Only a row group of them is held in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(with_origin)
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as out:
        for start in range(0, rows, ROW_GROUP):
            group = [_row(one, with_origin) for one in islice(examples, min(ROW_GROUP, rows - start))]
            if group or not start:
                out.write_table(pa.Table.from_pylist(group, schema=schema))


def _row(example: Example, with_origin: bool) -> dict[str, Any]:
    images = [
        {"bytes": image, "path": f"{example.story_id}-{number:02d}.{_extension(image)}"}
        for number, image in enumerate(map(_canonical, example.images), 1)
    ]
    return {
        "story_id": example.story_id,
        "images": images,
        "frame_count": len(images) if example.frame_count is None else example.frame_count,
        "chain_of_thought": example.chain_of_thought,
        "story": example.story,
        **(origin.cells(example.origin) if with_origin else {}),
    }


def has_origin(files: Sequence[Path]) -> bool:
    """Whether shards have the columns of `origin`."""
    import pyarrow.parquet as pq

    return all(origin.has(pq.read_schema(file)) for file in files)


def copy(file: Path, to: Path) -> int:
    """Copies a shard with every picture canonical, and returns how many were not. Everything else stays as it is.

    If all were, the files are equal.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pq.ParquetFile(file, memory_map=True)
    groups = range(source.metadata.num_row_groups)
    if not any(_odd(image) for group in groups for image in _images(source.read_row_group(group, columns=["images"]))):
        shutil.copy(file, to)
        return 0
    changed = 0
    with pq.ParquetWriter(to, source.schema_arrow, compression="zstd", use_dictionary=False) as out:
        for group in groups:
            table = source.read_row_group(group)
            column = table.column("images").to_pylist()
            for image in (one for row in column for one in row or () if one and one["bytes"]):
                stored, image["bytes"] = image["bytes"], _canonical(image["bytes"])
                changed += stored is not image["bytes"]
            place = table.schema.get_field_index("images")
            field = table.schema.field(place)
            out.write_table(table.set_column(place, field, pa.array(column, field.type)))
    return changed


def _images(table: "pa.Table") -> Iterator[bytes]:
    return (one["bytes"] for row in table.column("images").to_pylist() for one in row or () if one and one["bytes"])


def _odd(image: bytes) -> bool:
    try:
        return bool(pictures.odd(image))
    except pictures.PictureError:
        return False


def _canonical(image: bytes) -> bytes:
    try:
        return pictures.canonical(image)
    except pictures.PictureError:
        return image


def _extension(image: bytes) -> str:
    return "png" if pictures.sniff(image) == "png" else "jpg"


def sizes(example: Example) -> list[tuple[int, int]]:
    """Width and height of each image in pixels, from the headers alone. Raises DataError for unreadable pictures."""
    return [_size(example.story_id, number, image) for number, image in enumerate(example.images, 1)]


def _size(story_id: str, number: int, image: bytes) -> tuple[int, int]:
    try:
        return pictures.size(image)
    except pictures.PictureError as error:
        raise DataError(
            f"Story {story_id}, image {number}: {len(image)} bytes that are not a readable picture ({error}); "
            "JPEG or PNG is required: create or pull the data again."
        ) from error
