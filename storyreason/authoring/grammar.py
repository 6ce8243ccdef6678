"""The grammar of an analysis whose IDs, boxes and known names are fixed: a model writes only what is seen of them.

The notation is that of `storyreason.generation.grammar`, which also makes the grammar of the story.
"""

from storyreason.authoring.given import Given, called
from storyreason.format.tables import CHARACTERS, NARRATIVE, OBJECTS, PHASES, SETTING_ELEMENTS, SETTINGS
from storyreason.generation.gbnf import Grammar, choice, joined, literal

FIRST, LATER = "[^|<>\\u2026\\u0000-\\u0020\\u007f-\\u00a0]", "[^|<>\\u2026\\u0000-\\u001f\\u007f-\\u009f]"
"""The characters of a cell: no bars, tags, control characters, and nothing that stands for an open cell."""
NAME = "[A-Z\u00c0-\u00d6\u00d8-\u00de] [a-z\u00df-\u00f6\u00f8-\u00ff]{1,14}"
"""One word of a new name."""


def of_analysis(given: Given, cell: int) -> str:
    """The grammar of the analyses that a window may have; `cell` is the most characters of a cell."""
    grammar = Grammar()
    plain = grammar.rule(f"{FIRST} {LATER}{{0,{cell - 1}}}")
    word = grammar.rule(NAME)
    name = grammar.rule(f'{word} (" " {word})?')
    elements = grammar.rule(choice(SETTING_ELEMENTS))
    setting = grammar.rule(_row([elements, *[plain] * (len(SETTINGS.columns) - 1)]))
    settings = grammar.rule(f"{literal(SETTINGS.top)} {setting}{{1,{len(SETTING_ELEMENTS)}}}")
    blocks = []
    for image in range(1, len(given.window.shots) + 1):
        blocks.append(literal(f"## Image {image}"))
        people = [
            _row([literal(one.entity), literal(given.names[one.entity]) if one.entity in given.names else name,
                  *[plain] * (len(CHARACTERS.columns) - 3), literal(str(one.box))])
            for one in given.people(image)
        ]  # fmt: skip
        things = [
            _row([literal(one.entity), f"{literal(called(one.label) + ', ')} {plain}",
                  *[plain] * (len(OBJECTS.columns) - 3), literal(str(one.box))])
            for one in given.things(image)
        ]  # fmt: skip
        blocks += [
            f"{literal(table.top)} {' '.join(rows)}"
            for table, rows in ((CHARACTERS, people), (OBJECTS, things))
            if rows
        ]
        blocks.append(settings)
    count = len(given.window.shots)
    number = grammar.rule(choice(map(str, range(1, count + 1))))
    numbers = grammar.rule(f'{number} (", " {number}){{0,{count - 1}}}')
    phases = [_row([literal(one), *[plain] * (len(NARRATIVE.columns) - 2), numbers]) for one in PHASES]
    return grammar.text(joined([*blocks, f"{literal(NARRATIVE.top)} {' '.join(phases)}"]))


def _row(cells: list[str]) -> str:
    """A row with the line end before it."""
    between = ' " | " '
    return f'"\\n| " {between.join(cells)} " |"'
