"""The analysis (chain of thought): Markdown tables of what each image shows, parsed into objects and rendered back."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from storyreason.format.problems import Problem, Tally, quote
from storyreason.format.tables import (
    CHARACTERS,
    IMAGE_TABLES,
    NARRATIVE,
    OBJECTS,
    SETTINGS,
    TABLES,
    Character,
    Object,
    Phase,
    Row,
    RowT,
    Setting,
    Table,
    markdown,
)


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
        """Every row with an ID and a box, characters first."""
        return self.characters + self.objects

    def rows(self, table: Table[RowT]) -> tuple[RowT, ...]:
        """The rows of one of the image's tables."""
        rows: tuple[RowT, ...] = getattr(self, table.name)
        return rows


@dataclass(frozen=True, slots=True)
class Analysis:
    """The whole chain of thought, sections in the order of the text."""

    sections: tuple[Section, ...] = ()
    phases: tuple[Phase, ...] = ()


def render(analysis: Analysis) -> str:
    """The analysis in the published headings and columns, without a final line end. Inverse of `read`.

    A table without rows is omitted together with its heading. That includes the Setting, which `rules` then reports.
    """
    blocks = []
    for section in analysis.sections:
        blocks.append(f"## Image {section.image}")
        blocks += [_render_table(table, rows) for table in IMAGE_TABLES if (rows := section.rows(table))]
    if analysis.phases:
        blocks.append(_render_table(NARRATIVE, analysis.phases))
    return "\n\n".join(blocks)


def _render_table(table: Table[Row], rows: Sequence[Row]) -> str:
    return "\n".join([table.top, *(markdown(table.cells(row)) for row in rows)])


def read(text: str) -> tuple[Analysis, list[Problem]]:
    """Parses as much of an analysis as possible; the rest becomes problems with their positions.

    Never raises. Takes time linear in the length of the text.
    """
    parser = AnalysisParser()
    for line in text.split("\n"):
        parser.line(line)
    return parser.analysis(), parser.problems


_BY_TITLE: dict[str, Table[Row]] = {
    **{table.title.lower(): table for table in TABLES},
    "character": CHARACTERS, "object": OBJECTS, "settings": SETTINGS,
}  # fmt: skip
_BY_COLUMN = {table.columns[0].lower(): table for table in TABLES}
_COLUMNS, _SEPARATOR = "the columns", "the separator"
_IMAGE = re.compile(r"image\s*([0-9]{1,6})(?![0-9])")
_PIPE = re.compile(r"(?<!\\)\|")


class _Rows(NamedTuple):
    """A section that is still being parsed."""

    image: int
    line: int
    tables: tuple[list[Any], list[Any], list[Any]]  # characters, objects, settings


class AnalysisParser:
    """Parses an analysis line by line, so that it can be parsed while it is being generated.

    `problems` grows as lines arrive. `first_line` is the number of the first line, for the positions of problems.
    """

    def __init__(self, first_line: int = 1) -> None:
        self.problems: list[Problem] = []
        self._tally = Tally()
        self._line = first_line - 1
        self._sections: list[_Rows] = []
        self._phases: list[Any] = []
        self._table: Table[Row] | None = None
        self._rows: list[Any] | None = None  # collects the rows of the open table
        self._missing: list[str] = []  # what its rows still need above them: columns, separator
        self._opened: set[str] = set()  # the tables of the current image, and the narrative structure
        self._above = 2  # what may still precede the rows: 2 header and separator, 1 the separator, 0 neither

    def line(self, text: str) -> Section | Row | None:
        """Parses the next line, given without its line end. Returns the row it holds or the (empty) section it opens."""
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
            self._problem("analysis-text", f"{quote(stripped)} is neither a heading nor a table row.", text)
        return None

    def last_line(self, text: str) -> Section | Row | None:
        """Parses a line whose line end never arrived: it only counts if it is a row with all its cells."""
        whole = self._table and text.rstrip()[-1:] == "|" and len(_cells(text)) == len(self._table.columns)
        return self.line(text) if whole else None

    def analysis(self) -> Analysis:
        """Everything that is complete so far."""
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
            self._opened &= {NARRATIVE.name}
            return section
        self._open(_BY_TITLE.get(title), [_COLUMNS, _SEPARATOR], text)
        if self._table is None:
            self._problem("analysis-text", f"{quote(stripped)} is not one of the published headings.", text)
        return None

    def _open(self, table: Table[Row] | None, missing: list[str], text: str) -> None:
        self._table, self._rows, self._missing = table, None, missing
        if table is None:
            return
        if table.name in self._opened:
            where = "an answer" if table is NARRATIVE else "an image"
            self._problem("table-repeated", f"This is another {table.title} table: {where} has one.", text)
        self._opened.add(table.name)
        if table is NARRATIVE:
            self._rows = self._phases
        elif self._sections:
            self._rows = self._sections[-1].tables[IMAGE_TABLES.index(table)]

    def _row(self, text: str) -> Row | None:
        cells = _cells(text)
        if self._above and self._is_above(cells, text):
            return None
        table = self._table
        if table is None or self._rows is None:
            self._problem("table-shape", "This row is not below the headings of an image and a table.", text)
            return None
        if len(cells) != len(table.columns):
            message = f"This row has {len(cells)} cells; rows under {table.heading!r} have {len(table.columns)}."
            self._problem("table-shape", message, text)
            return None
        row = table.build(cells, self._line)
        if table.boxed and row.box is None:  # type: ignore[union-attr]
            message = f"{quote(cells[-1])} is not a bounding box: write four whole numbers, as in 13,69,150,239."
            self._problem("box-unreadable", message, text, cell=len(cells) - 1)
        if self._missing:
            message = f"Above this row, {' and '.join(self._missing)} are missing: a table begins with {table.head!r}."
            self._problem("table-head", message, text)
            self._missing = []  # once for each table
        self._rows.append(row)
        return row

    def _is_above(self, cells: list[str], text: str) -> bool:
        """Whether this row is a table's header or separator, however ragged. A header opens its table even without a heading."""
        if self._above == 2 and cells and (table := _BY_COLUMN.get(cells[0].lower())):
            self._above = 1
            if table is self._table and _COLUMNS in self._missing:
                self._missing = [_SEPARATOR]
            else:  # without a heading, or a second head below one
                self._open(table, [_SEPARATOR], text)
            if [cell.lower() for cell in cells] != [column.lower() for column in table.columns]:
                self._problem(
                    "table-shape", f"The columns under {table.heading!r} are: {', '.join(table.columns)}.", text
                )
            return True
        self._above = 0
        separates = not any(cell.strip("-: ") for cell in cells)
        if separates and self._table is not None:
            self._missing = [part for part in self._missing if part != _SEPARATOR]
        return separates

    def _problem(self, rule: str, message: str, text: str, cell: int = 0) -> None:
        image = self._sections[-1].image if self._sections and self._table is not NARRATIVE else None
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
    """The column (from 1) where a cell (counted from 0) of a row begins; for other lines, where their text begins."""
    start = 0
    if text.lstrip()[:1] == "|":
        pipes = [match.end() for match in islice(_PIPE.finditer(text), cell + 1)]
        start = pipes[-1]
    return start + len(text[start:]) - len(text[start:].lstrip()) + 1
