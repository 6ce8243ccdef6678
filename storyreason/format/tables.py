"""The four tables of an analysis: their published headings and columns, and what a row of each holds.

The columns of a table are the fields of its row class, in the same order. Code that counts or locates cells (parser,
rules, grammars, page) asks the `Table` here: to add a column, add its name to a head and a field to the row class.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Generic, TypeVar

from storyreason.format import boxes
from storyreason.format.boxes import Box
from storyreason.format.kinds import TableName

SETTING_ELEMENTS = (
    "Location", "Environment", "Lighting", "Weather", "Time Period", "Architecture", "Interior Design", "Atmosphere",
    "Background",
)  # fmt: skip
PHASES = ("Introduction", "Development", "Conflict", "Turning Point", "Conclusion")


@dataclass(frozen=True, slots=True)
class Character:
    """One row of an image's Characters table.

    `box` is None if the cell cannot be parsed; `box_text` then keeps the cell. `line` is the row's line in the parsed
    text (0 if made by hand) and is ignored when rows are compared.
    """

    id: str
    name: str
    description: str
    emotions: str
    actions: str
    function: str
    box: Box | None
    box_text: str = ""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Object:
    """One row of an image's Objects table: an `obj`, `lm` or `bg` entity."""

    id: str
    description: str
    purpose: str
    interaction: str
    function: str
    box: Box | None
    box_text: str = ""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of an image's Setting table."""

    element: str
    description: str
    mood: str
    time: str
    function: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Phase:
    """One row of the Narrative Structure table.

    `images` are numbers from 1: `2-4` is parsed as 2, 3, 4, and `images_text` keeps any cell that is not written as
    `2, 3, 4`.
    """

    name: str
    description: str
    events: str
    images: tuple[int, ...]
    images_text: str = ""
    line: int = field(default=0, compare=False)


Row = Character | Object | Setting | Phase
RowT = TypeVar("RowT", bound=Row, covariant=True)
_NO_CELLS = {"box_text", "images_text", "line"}


@dataclass(frozen=True, slots=True, eq=False)
class Table(Generic[RowT]):
    """One of the four tables: its published heading and head, its columns, and how a row is built."""

    name: TableName
    heading: str
    head: str
    """The published header row and the separator below it."""
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    """The field of the row class that each column fills."""
    boxed: bool
    """Whether the last cell is a bounding box."""
    build: Callable[[list[str], int], RowT]
    """Builds a row from its cells (one per column) and its line."""

    @property
    def title(self) -> str:
        """The heading without `#`."""
        return self.heading.lstrip("# ")

    @property
    def top(self) -> str:
        """Everything above the rows. Only the table of phases has a blank line below its heading."""
        return self.heading + ("\n" if self.heading.startswith("### ") else "\n\n") + self.head

    def place(self, field: str) -> int:
        """The index (from 0) of the cell that fills a field."""
        return self.fields.index(field)

    def cells(self, row: Row) -> list[str]:
        """The cells of a row as text. Inverse of `build`."""
        return [_written(row, name) for name in self.fields]


def markdown(cells: Iterable[str]) -> str:
    r"""A row of a table in Markdown: a cell is one line, and a pipe inside it is escaped.

    >>> markdown(["a|b", "c"])
    '| a\\|b | c |'
    """
    return "| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in cells) + " |"


def _written(row: Row, name: str) -> str:
    if name == "box":
        return str(row.box or row.box_text)  # type: ignore[union-attr]
    if name == "images":
        return row.images_text or _join(row.images)  # type: ignore[union-attr]
    return str(getattr(row, name))


def _boxed(kind: Callable[..., RowT]) -> Callable[[list[str], int], RowT]:
    def build(cells: list[str], line: int) -> RowT:
        text = cells[-1]
        box = boxes.parse(text)
        return kind(*cells[:-1], box, "" if box else text, line)

    return build


def _setting(cells: list[str], line: int) -> Setting:
    element, *plain = cells
    make: Callable[..., Setting] = Setting
    return make(_PUBLISHED.get(element.lower(), element), *plain, line)


def _phase(cells: list[str], line: int) -> Phase:
    name, *plain, text = cells
    images = tuple(dict.fromkeys(islice(_numbers(text), 50)))  # more than any story has: a runaway answer
    written = "" if text == _join(images) else text
    make: Callable[..., Phase] = Phase
    return make(_PUBLISHED.get(name.lower(), name), *plain, images, written, line)


_PUBLISHED = {name.lower(): name for name in SETTING_ELEMENTS + PHASES}
_NUMBERS = re.compile(r"(?<![0-9])([0-9]{1,3})(?![0-9])(?:\s?[-\u2013]\s?([0-9]{1,3})(?![0-9]))?")


def _numbers(text: str) -> Iterator[int]:
    for match in _NUMBERS.finditer(text):
        first, last = int(match[1]), int(match[2] or match[1])
        yield from range(first, last + 1) if last - first < 30 else (first, last)


def _join(images: tuple[int, ...]) -> str:
    return ", ".join(map(str, images))


def _table(
    name: TableName, heading: str, head: str, row: type[RowT], build: Callable[[list[str], int], RowT] | None = None
) -> Table[RowT]:
    columns = tuple(cell.strip() for cell in head.split("\n")[0].split("|")[1:-1])
    filled = tuple(one.name for one in fields(row) if one.name not in _NO_CELLS)
    assert len(columns) == len(filled), (columns, filled)
    return Table(name, heading, head, columns, filled, filled[-1] == "box", build or _boxed(row))


CHARACTERS = _table(
    "characters",
    "### Characters",
    "| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |\n"
    "|--------------|------|-------------|----------|---------|-------------------|--------------|",
    Character,
)
OBJECTS = _table(
    "objects",
    "### Objects",
    "| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |\n"
    "|-----------|-------------|----------|------------|-------------------|--------------|",
    Object,
)
SETTINGS = _table(
    "settings",
    "### Setting",
    "| Setting Element | Description | Mood | Time | Narrative Function |\n"
    "|-----------------|-------------|------|------|-------------------|",
    Setting,
    _setting,
)
NARRATIVE = _table(
    "phases",
    "## Narrative Structure",
    "| Narrative Phase | Description | Key Events | Images |\n|-----------------|-------------|-----------|--------|",
    Phase,
    _phase,
)
ENTITY_TABLES: tuple[Table[Character | Object], ...] = (CHARACTERS, OBJECTS)
IMAGE_TABLES: tuple[Table[Row], ...] = (*ENTITY_TABLES, SETTINGS)
"""The tables of one image, in order. A `Section` has the rows of each in the attribute named after the table."""
TABLES: tuple[Table[Row], ...] = (*IMAGE_TABLES, NARRATIVE)
BOX_COLUMN = CHARACTERS.columns[CHARACTERS.place("box")]
"""The last column of both entity tables."""
