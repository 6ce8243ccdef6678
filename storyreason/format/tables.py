"""The four tables of an analysis: their published headings and columns, and what a row of each holds.

A table's columns are the fields of its row class, in the same order. All that counts or finds cells (reading, rules,
grammars, the page) asks the `Table` here: a column is added by its name in a head and a field of the row.
"""

import re
from collections.abc import Callable, Iterator
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

    `box` is None where the cell does not parse, and then `box_text` keeps it. `line` is the row's place in the text
    that was read (0 if made by hand); two rows are equal wherever they stand.
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

    `images` are numbers from 1: `2-4` reads as 2, 3, 4, and `images_text` keeps a cell that is written otherwise than
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
    """One of the four tables: its name, published heading, columns and separator, and what a row becomes."""

    name: TableName
    heading: str
    head: str
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    """The fields of a row that its cells fill, by column."""
    boxed: bool
    """Whether the last cell is a bounding box."""
    build: Callable[[list[str], int], RowT]
    """Makes a row of as many cells as there are columns, and of its line."""

    @property
    def title(self) -> str:
        """The heading without its marks."""
        return self.heading.lstrip("# ")

    @property
    def top(self) -> str:
        """What stands above the rows. The table of phases comes after a blank line, those of an image do not."""
        return self.heading + ("\n" if self.heading.startswith("### ") else "\n\n") + self.head

    def place(self, field: str) -> int:
        """Which cell fills a field, counted from 0."""
        return self.fields.index(field)

    def cells(self, row: Row) -> list[str]:
        """A row's cells as they are written. `build` makes an equal row of them."""
        return [_written(row, name) for name in self.fields]


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
    images = tuple(dict.fromkeys(islice(_numbers(text), 50)))  # more than any story has is a runaway answer
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
"""The tables of one image, in their order. A `Section` has the rows of each under the table's name."""
TABLES: tuple[Table[Row], ...] = (*IMAGE_TABLES, NARRATIVE)
BOX_COLUMN = CHARACTERS.columns[CHARACTERS.place("box")]
"""Both tables of entities end in it."""
