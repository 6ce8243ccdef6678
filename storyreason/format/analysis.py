"""The analysis (chain of thought): what stands in each image, as Markdown tables, to objects and back."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

from storyreason.format import boxes
from storyreason.format.boxes import Box
from storyreason.format.problems import Problem, Tally, quote

SETTING_ELEMENTS = (
    "Location", "Environment", "Lighting", "Weather", "Time Period", "Architecture", "Interior Design", "Atmosphere",
    "Background",
)  # fmt: skip
PHASES = ("Introduction", "Development", "Conflict", "Turning Point", "Conclusion")

Kind = Literal["char", "obj", "lm", "bg"]
"""What an entity is, as its ID says: people, things, landmarks, background."""


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


@dataclass(frozen=True, slots=True)
class Section:
    """Everything under one `## Image N` heading."""

    image: int
    characters: tuple[Character, ...] = ()
    objects: tuple[Object, ...] = ()
    settings: tuple[Setting, ...] = ()
    line: int = field(default=0, compare=False)

    @property
    def entities(self) -> tuple[Character | Object, ...]:
        """All that has an ID and a box here, people first."""
        return self.characters + self.objects


@dataclass(frozen=True, slots=True)
class Analysis:
    """The whole chain of thought, sections in the order of the text."""

    sections: tuple[Section, ...] = ()
    phases: tuple[Phase, ...] = ()


Row = Character | Object | Setting | Phase


def _character(cells: list[str], line: int) -> Character:
    id_, name, description, emotions, actions, function, box_text = cells
    box = boxes.parse(box_text)
    return Character(id_, name, description, emotions, actions, function, box, "" if box else box_text, line)


def _object(cells: list[str], line: int) -> Object:
    id_, description, purpose, interaction, function, box_text = cells
    box = boxes.parse(box_text)
    return Object(id_, description, purpose, interaction, function, box, "" if box else box_text, line)


def _setting(cells: list[str], line: int) -> Setting:
    element, description, mood, time, function = cells
    return Setting(_ENUM.get(element.lower(), element), description, mood, time, function, line)


def _phase(cells: list[str], line: int) -> Phase:
    name, description, events, text = cells
    images = tuple(dict.fromkeys(islice(_numbers(text), 50)))  # more than any story has is a runaway answer
    written = "" if text == _join(images) else text
    return Phase(_ENUM.get(name.lower(), name), description, events, images, written, line)


_ENUM = {name.lower(): name for name in SETTING_ELEMENTS + PHASES}
_NUMBERS = re.compile(r"(?<![0-9])([0-9]{1,3})(?![0-9])(?:\s?[-\u2013]\s?([0-9]{1,3})(?![0-9]))?")


def _numbers(text: str) -> Iterator[int]:
    for match in _NUMBERS.finditer(text):
        first, last = int(match[1]), int(match[2] or match[1])
        yield from range(first, last + 1) if last - first < 30 else (first, last)


def _join(images: tuple[int, ...]) -> str:
    return ", ".join(map(str, images))


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """One of the four kinds of tables: its published heading, columns and separator, and what a row becomes."""

    heading: str
    columns: tuple[str, ...]
    head: str
    boxed: bool
    build: Callable[[list[str], int], Row]

    @property
    def top(self) -> str:
        """What stands above the rows. The table of phases comes after a blank line, those of an image do not."""
        return self.heading + ("\n" if self.heading.startswith("### ") else "\n\n") + self.head


def _table(heading: str, head: str, build: Callable[[list[str], int], Row]) -> _Table:
    columns = tuple(cell.strip() for cell in head.split("\n")[0].split("|")[1:-1])
    return _Table(heading, columns, head, columns[-1] == "Bounding Box", build)


_CHARACTERS = _table(
    "### Characters",
    "| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |\n"
    "|--------------|------|-------------|----------|---------|-------------------|--------------|",
    _character,
)
_OBJECTS = _table(
    "### Objects",
    "| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |\n"
    "|-----------|-------------|----------|------------|-------------------|--------------|",
    _object,
)
_SETTING = _table(
    "### Setting",
    "| Setting Element | Description | Mood | Time | Narrative Function |\n"
    "|-----------------|-------------|------|------|-------------------|",
    _setting,
)
_PHASES = _table(
    "## Narrative Structure",
    "| Narrative Phase | Description | Key Events | Images |\n|-----------------|-------------|-----------|--------|",
    _phase,
)
_TABLES = (_CHARACTERS, _OBJECTS, _SETTING, _PHASES)
HEADS = dict(zip(("characters", "objects", "settings", "phases"), (table.top for table in _TABLES), strict=True))
"""What `render` writes above the rows of each table: heading, columns, separator."""
_BY_TITLE = {table.heading.lstrip("# ").lower(): table for table in _TABLES}
_BY_TITLE |= {"character": _CHARACTERS, "object": _OBJECTS, "settings": _SETTING}
_BY_COLUMN = {table.columns[0].lower(): table for table in _TABLES}


def render(analysis: Analysis) -> str:
    """The analysis in the published headings and columns, without a final line end. Inverse of `read`.

    A table without rows is left out with its heading, the Setting too (which `rules` then misses).
    """
    blocks = []
    for section in analysis.sections:
        blocks.append(f"## Image {section.image}")
        if section.characters:
            blocks.append(_render_table(_CHARACTERS, [
                (c.id, c.name, c.description, c.emotions, c.actions, c.function, str(c.box or c.box_text))
                for c in section.characters
            ]))  # fmt: skip
        if section.objects:
            blocks.append(_render_table(_OBJECTS, [
                (o.id, o.description, o.purpose, o.interaction, o.function, str(o.box or o.box_text))
                for o in section.objects
            ]))  # fmt: skip
        if section.settings:
            blocks.append(_render_table(_SETTING, [
                (s.element, s.description, s.mood, s.time, s.function) for s in section.settings
            ]))  # fmt: skip
    if analysis.phases:
        rows = [(p.name, p.description, p.events, p.images_text or _join(p.images)) for p in analysis.phases]
        blocks.append(_render_table(_PHASES, rows))
    return "\n\n".join(blocks)


def _render_table(table: _Table, rows: Sequence[tuple[str, ...]]) -> str:
    # A cell is one line, and a pipe inside it is escaped as Markdown does: a|b is written a\|b.
    lines = ["| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([table.top, *lines])


def read(text: str) -> tuple[Analysis, list[Problem]]:
    """What can be read of an analysis, and what cannot, with places. Never raises; linear in the text's length."""
    parser = Parser()
    for line in text.split("\n"):
        parser.line(line)
    return parser.analysis(), parser.problems


_IMAGE = re.compile(r"image\s*([0-9]{1,6})(?![0-9])")
_PIPE = re.compile(r"(?<!\\)\|")


class _Rows(NamedTuple):
    """A section that is still being read."""

    image: int
    line: int
    tables: tuple[list[Any], list[Any], list[Any]]  # characters, objects, settings


class Parser:
    """Reads an analysis line by line, so that it can be read while it is being written.

    `problems` grows as lines come. `first_line` is the number of the first line, for their places.
    """

    def __init__(self, first_line: int = 1) -> None:
        self.problems: list[Problem] = []
        self._tally = Tally()
        self._line = first_line - 1
        self._sections: list[_Rows] = []
        self._phases: list[Any] = []
        self._table: _Table | None = None
        self._rows: list[Any] | None = None  # where rows of the open table go
        self._above = 2  # what may still stand above the rows: 2 header and separator, 1 the separator, 0 neither

    def line(self, text: str) -> Section | Row | None:
        """Read the next line, without its line end. Gives the row it holds, or the empty section that it opens."""
        self._line += 1
        if text[:1] == "|":
            return self._row(text)
        if not text:
            self._above = 2
            return None
        stripped = text.strip()
        if stripped[:1] == "|":
            return self._row(text)
        self._above = 2
        if stripped[:1] == "#":
            return self._heading(stripped, text)
        if stripped:
            self._problem("analysis-text", f"{quote(stripped)} is neither a heading nor a row of a table.", text)
        return None

    def last_line(self, text: str) -> Section | Row | None:
        """Read a line whose end never came: it counts only as a row with all its cells."""
        whole = self._table and text.rstrip()[-1:] == "|" and len(_cells(text)) == len(self._table.columns)
        return self.line(text) if whole else None

    def analysis(self) -> Analysis:
        """All that was complete so far."""
        sections = (
            Section(image, tuple(characters), tuple(objects), tuple(settings), line)
            for image, line, (characters, objects, settings) in self._sections
        )
        return Analysis(tuple(sections), tuple(self._phases))

    def _heading(self, stripped: str, text: str) -> Section | None:
        title = stripped.strip("#*: \t").lower()
        image = _IMAGE.match(title)
        if image:
            section = Section(int(image[1]), line=self._line)
            self._sections.append(_Rows(section.image, section.line, ([], [], [])))
            self._table = self._rows = None
            return section
        self._open(_BY_TITLE.get(title))
        if self._table is None:
            self._problem("analysis-text", f"No analysis has a heading that reads {quote(stripped)}.", text)
        return None

    def _open(self, table: _Table | None) -> None:
        self._table, self._rows = table, None
        if table is _PHASES:
            self._rows = self._phases
        elif table and self._sections:
            self._rows = self._sections[-1].tables[_TABLES.index(table)]

    def _row(self, text: str) -> Row | None:
        cells = _cells(text)
        if self._above and self._is_above(cells, text):
            return None
        table = self._table
        if table is None or self._rows is None:
            self._problem("table-shape", "This row stands under no heading of an image and of a table.", text)
            return None
        if len(cells) != len(table.columns):
            message = f"This row has {len(cells)} cells, but a row under {table.heading!r} has {len(table.columns)}."
            self._problem("table-shape", message, text)
            return None
        row = table.build(cells, self._line)
        if table.boxed and row.box is None:  # type: ignore[union-attr]
            message = f"{quote(cells[-1])} is no bounding box: write four whole numbers as in 13,69,150,239."
            self._problem("box-unreadable", message, text, cell=len(cells) - 1)
        self._rows.append(row)
        return row

    def _is_above(self, cells: list[str], text: str) -> bool:
        """Whether this row is a table's header or separator, however ragged. A header opens its table by itself."""
        if self._above == 2 and cells and (table := _BY_COLUMN.get(cells[0].lower())):
            self._above = 1
            if table is not self._table:
                self._open(table)
            if [cell.lower() for cell in cells] != [column.lower() for column in table.columns]:
                self._problem(
                    "table-shape", f"The columns under {table.heading!r} are: {', '.join(table.columns)}.", text
                )
            return True
        self._above = 0
        return not any(cell.strip("-: ") for cell in cells)

    def _problem(self, rule: str, message: str, text: str, cell: int = 0) -> None:
        image = self._sections[-1].image if self._sections and self._table is not _PHASES else None
        if self._tally.allows(rule):
            self.problems.append(Problem(rule, message, self._line, column(text, cell), image))


def _cells(text: str) -> list[str]:
    if "\\|" in text:
        cells = [part.strip().replace("\\|", "|") for part in _PIPE.split(text)]
    else:
        cells = list(map(str.strip, text.split("|")))
    # "| a | b |" gives "", "a", "b", "", and "| a | b" without its last pipe "", "a", "b".
    return cells[1:-1] if cells[-1] == "" else cells[1:]


def column(text: str, cell: int = 0) -> int:
    """Where a cell of a row (counted from 0) begins in its line, from 1; for other lines where their text begins."""
    start = 0
    if text.lstrip()[:1] == "|":
        pipes = [match.end() for match in islice(_PIPE.finditer(text), cell + 1)]
        start = pipes[-1]
    return start + len(text[start:]) - len(text[start:].lstrip()) + 1
