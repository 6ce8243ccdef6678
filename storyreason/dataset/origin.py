"""Where the images of a story come from: columns beside the published ones, which other readers of the layout ignore.

| column | type | meaning |
|---|---|---|
| `film` | string | the film; all its stories are in one split |
| `scene`, `frame` | list of int32 | of each image, counted in its film |
| `seconds` | list of double, or null | when each image is shown |
| `source` | list of string | the file that each image comes from |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("film", "scene", "frame", "seconds", "source")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a story's images come from; `scene`, `frame`, `seconds` and `source` have a value for each of them."""

    film: str
    scene: tuple[int, ...]
    frame: tuple[int, ...]
    seconds: tuple[float | None, ...]
    source: tuple[str, ...]


def fields() -> "list[pa.Field]":
    """The columns and their types."""
    import pyarrow as pa

    kinds = (pa.int32(), pa.int32(), pa.float64(), pa.string())
    return [pa.field("film", pa.string()), *(pa.field(n, pa.list_(k)) for n, k in zip(COLUMNS[1:], kinds, strict=True))]


def features() -> dict[str, Any]:
    """The same as `datasets` describes them."""

    def value(kind: str) -> dict[str, Any]:
        return {"dtype": kind, "_type": "Value"}

    kinds = ("int32", "int32", "float64", "string")
    lists = {n: {"feature": value(k), "_type": "List"} for n, k in zip(COLUMNS[1:], kinds, strict=True)}
    return {"film": value("string"), **lists}


def has(schema: "pa.Schema") -> bool:
    """Whether a shard has these columns, with these types."""
    names = set(schema.names)
    return all(one.name in names and schema.field(one.name).type.equals(one.type) for one in fields())


def read(row: Mapping[str, Any]) -> Origin | None:
    """The origin in a row; None if the row has none."""
    if row.get("film") is None:
        return None
    return Origin(row["film"], *(tuple(row[name] or ()) for name in COLUMNS[1:]))


def cells(origin: Origin | None) -> dict[str, Any]:
    """A row's cells; inverse of `read`."""
    if origin is None:
        return dict.fromkeys(COLUMNS)
    return {"film": origin.film, **{name: list(getattr(origin, name)) for name in COLUMNS[1:]}}
