"""Grammars that constrain grounded decoding: one for the analysis, then one for the story.

The notation is GBNF as xgrammar implements it, an EBNF with character classes: "text", [a-z], (a | b), a?, a{1,3}.
Source: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md; decoding by masks: Dong et al. 2024,
"XGrammar" (arXiv 2411.15100).

An analysis written under its grammar has one section per image with the published headings and columns, IDs of the right
kind in ascending order (so no ID twice), boxes of whole numbers within the frame, and all five phases. A story written
under its grammar has one `<gdi>` per image in order; in it only the entities of that image are mentioned, in tags of the
right kind that are closed.

A grammar cannot compare numbers, so x1 < x2 and y1 < y2 are not guaranteed: `grounded` repairs such boxes. An answer that
was cut off is completed under a grammar, too: one that allows only what validity requires, in few tokens.
"""

from collections.abc import Mapping, Sequence

from storyreason.format.analysis import Analysis, Section
from storyreason.format.kinds import Kind, kinds_in
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
from storyreason.generation.gbnf import Grammar, joined, literal
from storyreason.generation.mentions import BEFORE_A_SENTENCE, Mentions

MOST: dict[Kind, int] = {"char": 24, "obj": 40, "lm": 12, "bg": 12}
"""The highest ID of each kind."""
CELL = 200
"""Maximum characters in a cell."""
SPAN = 80
"""Maximum characters inside a tag."""
PLAIN = 240
"""Maximum characters between two tags."""
MENTIONS = 40
"""Maximum tags per image."""
FEW = 12
"""Maximum letters in a cell that completes a cut-off answer; a passage may have twice as many. A letter is at most a token."""


def of_section(sizes: Sizes, before: Sequence[Section] = ()) -> str:
    """The grammar of an analysis's next section, as `analysis.render` writes it; `sizes` are the images' (width, height) in
    pixels.

    `before` are the sections that are written: a person who is in one keeps the name. The text of a section ends with the
    heading of the next image, which is where the text of the next one goes on; that of the last has the phases.
    """
    grammar = Grammar()
    # Without "<": a "</think>" in a cell would end the analysis.
    cell = grammar.rule(f"[^|<\\n\\r ] [^|<\\n\\r]{{0,{CELL - 1}}}")
    number = len(before) + 1
    named = {row.id: row.name for section in reversed(before) for row in section.characters}
    tables = [_entities(grammar, cell, table, sizes[number - 1], named) for table in ENTITY_TABLES]
    after = literal(f"## Image {number + 1}") if number < len(sizes) else _phases(grammar, cell, len(sizes))
    blocks = [f"{' '.join(tables)} {_setting(grammar, cell, len(SETTING_ELEMENTS))}", after]
    return grammar.text(joined(['"## Image 1"', *blocks]) if number == 1 else f'"\\n\\n" {joined(blocks)}')


def end_of_analysis(sizes: Sizes, written: Analysis) -> str | None:
    """The grammar of the shortest texts that complete `written` to a valid analysis; None if nothing is missing.

    The completion follows the text of `written` without a final line end. Its last section and its phases may be
    incomplete.
    """
    grammar = Grammar()
    cell = grammar.rule(f"[a-zA-Z] [a-zA-Z ]{{0,{FEW - 1}}}")
    setting = _setting(grammar, cell, 1)
    sections = written.sections
    blocks = [setting] if sections and not sections[-1].settings else []
    for number in range(len(sections) + 1, len(sizes) + 1):
        blocks += [f'"## Image {number}"', setting]
    if written.phases:
        rows = _phase_rows(grammar, cell, len(sizes))[len(written.phases) :]
        return grammar.text(" ".join(f'"\\n" {row}' for row in rows)) if rows else None
    rest = joined([*blocks, _phases(grammar, cell, len(sizes))])
    return grammar.text(f'"\\n\\n" {rest}' if sections else rest)


def _entities(
    grammar: Grammar, cell: str, table: Table[Character | Object], size: tuple[int, int], named: Mapping[str, str]
) -> str:
    """An optional table of entities and the blank line after it. `size` is (width, height) in pixels.

    `named` are the names of people by ID, where they are known; a name is the first cell after the ID.

    Ascending IDs are a chain of optional rows, built from the last ID to the first: each rule is "this ID, then maybe
    later ones, or only later ones".
    """
    across, down = (grammar.rule(_up_to(edge)) for edge in size)
    box = grammar.rule(f'{across} "," {down} "," {across} "," {down}')

    between = ' " | " '
    plain = table.fields[1:-1]  # all but the ID and the box
    rest = {
        known: grammar.rule(
            between.join([*(cell for name in plain if not (known and name == "name")), box]) + ' " |\\n"'
        )
        for known in (False, True)
    }

    def row(id: str) -> str:
        known = id in named
        name = literal(f"{named[id]} | ") if known else ""
        return f'"| {id} | " {name} {rest[known]}'

    rows = ""  # one or more; each ID is used or skipped once
    for kind in reversed(kinds_in(table.name)):
        for number in range(MOST[kind], 0, -1):
            one = row(f"{kind}{number}")
            rows = grammar.rule(f"{one} ({rows})? | {rows}" if rows else one)
    top = grammar.rule(literal(table.top + "\n"))  # a rule of its own: compiled once for all images
    return grammar.rule(f'({top} {rows} "\\n")?')


def _setting(grammar: Grammar, cell: str, most: int) -> str:
    """A Setting table with 1 to `most` rows."""
    plain = len(SETTINGS.columns) - 1
    elements = grammar.rule(" | ".join(literal(name) for name in SETTING_ELEMENTS))
    row = grammar.rule(f'"| " {elements}{f""" " | " {cell}""" * plain} " |"')
    return grammar.rule(f'{literal(SETTINGS.top)} ("\\n" {row}){{1,{most}}}')


def _phases(grammar: Grammar, cell: str, images: int) -> str:
    rows = " ".join(f'"\\n" {row}' for row in _phase_rows(grammar, cell, images))
    return grammar.rule(f"{literal(NARRATIVE.top)} {rows}")


def _phase_rows(grammar: Grammar, cell: str, images: int) -> list[str]:
    """One row per phase, in order; its last cell lists numbers from 1 to `images`."""
    number = grammar.rule(" | ".join(f'"{image}"' for image in range(1, images + 1)))
    numbers = grammar.rule(f'{number} (", " {number}){{0,{images - 1}}}')
    plain = f'{cell} " | " ' * (len(NARRATIVE.columns) - 2)  # all but the name and the images
    return [f'"| {name} | " {plain}{numbers} " |"' for name in PHASES]


def _up_to(most: int) -> str:
    """Whole numbers from 0 to `most`, without leading zeros: 115 gives 0-9, 10-99, 100-109, 110-114, 115.

    First all shorter numbers; then, digit by digit, those that share the digits before it and have a smaller one there.
    """
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
    """The grammar of all stories that mention only entities of the same image in `analysis`, as `story.render` writes them,
    and call each by no name but its own."""
    grammar = Grammar()
    mentions = Mentions(grammar.rule, analysis.sections, SPAN)
    return grammar.text(joined([_passage(one.image, _content(grammar, mentions, one)) for one in analysis.sections]))


def end_of_story(analysis: Analysis, written: str) -> str | None:
    """The grammar of the shortest texts that complete `written`, whose last tag is complete; None if nothing is missing."""
    grammar = Grammar()
    short = grammar.rule(f'[a-zA-Z] [a-zA-Z ]{{0,{2 * FEW - 1}}} "."')
    begun, ended = written.count("<gdi "), written.count("</gdi>")
    blocks = [_passage(section.image, short) for section in analysis.sections[begun:]]
    if begun > ended:
        blocks.insert(
            0, '"\\n</gdi>"' if written.rpartition("<gdi ")[2].partition(">")[2].strip() else f'{short} "\\n</gdi>"'
        )
        return grammar.text(joined(blocks))
    return grammar.text(f'"\\n\\n" {joined(blocks)}' if ended else joined(blocks)) if blocks else None


def _passage(image: int, content: str) -> str:
    return f'"<gdi image{image}>\\n" {content} "\\n</gdi>"'


def _content(grammar: Grammar, mentions: Mentions, section: Section) -> str:
    """Alternating text and mentions."""
    plain = grammar.rule(f"[^<] [^<]{{0,{PLAIN - 1}}}")
    if not (anywhere := mentions.anywhere(section)):
        return plain
    mention = grammar.rule(" | ".join(anywhere))
    opening = grammar.rule(" | ".join(mentions.opening(section)))
    later = grammar.rule(f"{plain}? {mention} | {plain}? {BEFORE_A_SENTENCE} {opening}")
    first = grammar.rule(f"{later} | {opening}")
    return grammar.rule(f"{plain} | {first} {later}{{0,{MENTIONS - 1}}} {plain}?")
