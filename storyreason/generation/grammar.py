"""Grammars (GBNF, as xgrammar reads it) that a grounded answer cannot leave: first of the analysis, then of the story.

An analysis under its grammar has one section for each image with the published headings and columns, IDs of the right
kind in ascending order (so none twice), boxes of whole numbers within the frame, and all five phases. A story under
its own has one `<gdi>` for each image in order, in which only that image's entities are mentioned, in tags of the right
kind that are closed.

What was cut short is ended under a grammar too, one that allows only what validity asks for, in few tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from storyreason.format.analysis import Analysis, Section
from storyreason.format.kinds import KINDS, Kind, kind_of, kinds_in
from storyreason.format.rules import Sizes
from storyreason.format.tables import (
    ENTITY_TABLES,
    NARRATIVE,
    PHASES,
    SETTING_ELEMENTS,
    SETTINGS,
    Character,
    Object,
    Table,
)

MOST: dict[Kind, int] = {"char": 24, "obj": 40, "lm": 12, "bg": 12}
"""The highest ID of each kind."""
CELL = 200
"""Characters in a cell, at most."""
SPAN = 80
"""Characters in a tag."""
PLAIN = 240
"""Characters between two tags."""
MENTIONS = 40
"""Tags in one image."""
FEW = 12
"""Characters in a cell or, twice as many, in a passage that only ends what was cut: letters, which are a token or less."""


@dataclass
class _Grammar:
    names: dict[str, str] = field(default_factory=dict)
    """Of each rule's body."""

    def rule(self, body: str) -> str:
        """The name of the rule with this body; equal bodies are one rule."""
        return self.names.setdefault(body, f"r{len(self.names)}")

    def text(self, root: str) -> str:
        return "\n".join([f"root ::= {root}", *(f"{name} ::= {body}" for body, name in self.names.items())]) + "\n"


def of_analysis(sizes: Sizes) -> str:
    """Any analysis of images of `sizes` (width, height) in pixels, as `analysis.render` writes it."""
    grammar = _Grammar()
    # No "<": a "</think>" in a cell would end the analysis.
    cell = grammar.rule(f"[^|<\\n\\r ] [^|<\\n\\r]{{0,{CELL - 1}}}")
    blocks = []
    for number, size in enumerate(sizes, 1):
        tables = [_entities(grammar, cell, table, size) for table in ENTITY_TABLES]
        blocks += [f'"## Image {number}"', f"{' '.join(tables)} {_setting(grammar, cell, len(SETTING_ELEMENTS))}"]
    return grammar.text(_joined([*blocks, _phases(grammar, cell, len(sizes))]))


def end_of_analysis(sizes: Sizes, written: Analysis) -> str | None:
    """The least that makes `written` a valid analysis, after its text without a final line end; None: nothing.

    Its last section and its phases may be incomplete.
    """
    grammar = _Grammar()
    cell = grammar.rule(f"[a-zA-Z] [a-zA-Z ]{{0,{FEW - 1}}}")
    setting = _setting(grammar, cell, 1)
    sections = written.sections
    blocks = [setting] if sections and not sections[-1].settings else []
    for number in range(len(sections) + 1, len(sizes) + 1):
        blocks += [f'"## Image {number}"', setting]
    if written.phases:
        rows = _phase_rows(grammar, cell, len(sizes))[len(written.phases) :]
        return grammar.text(" ".join(f'"\\n" {row}' for row in rows)) if rows else None
    rest = _joined([*blocks, _phases(grammar, cell, len(sizes))])
    return grammar.text(f'"\\n\\n" {rest}' if sections else rest)


def _entities(grammar: _Grammar, cell: str, table: Table[Character | Object], size: tuple[int, int]) -> str:
    """A table that may be left out, with the blank line after it."""
    plain = len(table.columns) - 2  # all but the ID and the box
    across, down = (grammar.rule(_up_to(edge)) for edge in size)
    box = grammar.rule(f'{across} "," {down} "," {across} "," {down}')
    rest = grammar.rule(f'{f""" " | " {cell}""" * plain} " | " {box} " |\\n"'.strip())
    rows = ""  # one or more: each ID is used or passed over once
    for kind in reversed(kinds_in(table.name)):
        for number in range(MOST[kind], 0, -1):
            row = f'"| {kind}{number}" {rest}'
            rows = grammar.rule(f"{row} ({rows})? | {rows}" if rows else row)
    return grammar.rule(f'({_literal(table.top)} "\\n" {rows} "\\n")?')


def _setting(grammar: _Grammar, cell: str, most: int) -> str:
    plain = len(SETTINGS.columns) - 1
    elements = grammar.rule(" | ".join(_literal(name) for name in SETTING_ELEMENTS))
    row = grammar.rule(f'"| " {elements}{f""" " | " {cell}""" * plain} " |"')
    return grammar.rule(f'{_literal(SETTINGS.top)} ("\\n" {row}){{1,{most}}}')


def _phases(grammar: _Grammar, cell: str, images: int) -> str:
    return f"{_literal(NARRATIVE.top)} " + " ".join(f'"\\n" {row}' for row in _phase_rows(grammar, cell, images))


def _phase_rows(grammar: _Grammar, cell: str, images: int) -> list[str]:
    number = grammar.rule(" | ".join(f'"{image}"' for image in range(1, images + 1)))
    numbers = grammar.rule(f'{number} (", " {number}){{0,{images - 1}}}')
    plain = f'{cell} " | " ' * (len(NARRATIVE.columns) - 2)  # all but the name and the images
    return [f'"| {name} | " {plain}{numbers} " |"' for name in PHASES]


def _up_to(most: int) -> str:
    """Whole numbers from 0 to `most`, without leading zeros: 115 gives 0-9, 10-99, 100-109, 110-114, 115."""
    digits = str(most)
    choices = [f"[0-{most if len(digits) == 1 else 9}]"]
    choices += [f"[1-9] [0-9]{{{length - 1}}}" for length in range(2, len(digits))]
    for place in range(len(digits) if len(digits) > 1 else 0):
        low, high, after = (0 if place else 1), int(digits[place]) - 1, len(digits) - place - 1
        if high >= low:
            head = f'"{digits[:place]}" ' if place else ""
            choices.append(f"{head}[{low}-{high}]" + (f" [0-9]{{{after}}}" if after else ""))
    return " | ".join([*choices, f'"{most}"'] if len(digits) > 1 else choices)


def of_story(analysis: Analysis) -> str:
    """Any story whose every mention is of an entity of its own image in `analysis`, as `story.render` writes it."""
    grammar = _Grammar()
    return grammar.text(_joined([_passage(section.image, _told(grammar, section)) for section in analysis.sections]))


def end_of_story(analysis: Analysis, written: str) -> str | None:
    """The least that ends a story that begins with `written`, whose last tag is whole; None: nothing."""
    grammar = _Grammar()
    short = grammar.rule(f'[a-zA-Z] [a-zA-Z ]{{0,{2 * FEW - 1}}} "."')
    begun, ended = written.count("<gdi "), written.count("</gdi>")
    blocks = [_passage(section.image, short) for section in analysis.sections[begun:]]
    if begun > ended:
        blocks.insert(
            0, '"\\n</gdi>"' if written.rpartition("<gdi ")[2].partition(">")[2].strip() else f'{short} "\\n</gdi>"'
        )
        return grammar.text(_joined(blocks))
    return grammar.text(f'"\\n\\n" {_joined(blocks)}' if ended else _joined(blocks)) if blocks else None


def _passage(image: int, told: str) -> str:
    return f'"<gdi image{image}>\\n" {told} "\\n</gdi>"'


def _told(grammar: _Grammar, section: Section) -> str:
    """Text and mentions in turn."""
    plain = grammar.rule(f"[^<] [^<]{{0,{PLAIN - 1}}}")
    mentions = []
    for tags in (("gdo", "gda"), ("gdl",)):
        ids = [row.id for row in section.entities if (kind := kind_of(row.id)) and KINDS[kind].tag in tags]
        if ids:
            one = grammar.rule(" | ".join(_literal(identity) for identity in ids))
            who = grammar.rule(f'{one} (" " {one}){{0,{len(ids) - 1}}}')
            span = grammar.rule(f"[^<\\n] [^<\\n]{{0,{SPAN - 1}}}")
            mentions += [f'"<{tag} " {who} ">" {span} "</{tag}>"' for tag in tags]
    if not mentions:
        return plain
    mention = grammar.rule(" | ".join(mentions))
    return grammar.rule(f"{plain} | {plain}? ({mention} {plain}?){{1,{MENTIONS}}}")


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _joined(blocks: Sequence[str]) -> str:
    """Blocks with a blank line between them."""
    return ' "\\n\\n" '.join(blocks)
