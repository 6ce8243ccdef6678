"""A grammar of answers: valid ones, and what mutation makes of them. Every choice is drawn from one `random.Random`.

A case is its number: `case(7)` is the same text everywhere. Hypothesis can draw the choices too, and then shrinks them.
"""

import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from storyreason.format import analysis, answer, story
from storyreason.format.analysis import Analysis, Section
from storyreason.format.boxes import Box
from storyreason.format.kinds import KINDS
from storyreason.format.story import Mention, Passage, Story
from storyreason.format.tables import CHARACTERS, OBJECTS, PHASES, SETTING_ELEMENTS, SETTINGS, Phase, RowT, Table

Size = tuple[int, int]
SEEDS = Path(__file__).parent / "seeds"

WORDS = (
    "a", "book", "the quay", "Mara", "Joe's", "ünï", "灯台", "🙂", "e\u0301", "x | y", "\\", "and, then", "1-3", "—", "'s",
    "well...", "A. B.", "&amp;", "\u200b", "-", "*bold*",
)  # fmt: skip
"""What cells and passages are made of; a pipe is escaped in a table."""
HOSTILE = (
    "<", ">", "</", "<gdo", "<gdo char1>", "</gdo>", "<gda char1 char2>", "</gda>", "<gdl bg1>", "</gdl>", "<gdi image1>",
    "<gdi image 2>", "<GDI image1>", "</gdi>", "<gdi imageX>", "< gdo char1>", "<gdo\nchar1>", "<think>", "</think>", "|",
    "\\|", "| |", "|---|", "||", "\n", "\n\n", "\r\n", "\r", "\t", "   ", "\u2028", "\u2029", "\x85", "\x00", "\ufeff",
    "\ud800", "\udfff", "## Image 1", "## image 99", "## Image 1234567", "##", "### Characters", "### Setting", "### Objects",
    "## Narrative Structure", "| Character ID |", "| Setting Element |", "char1", "char01", "obj999999999999", "lm", "bg-1",
    "1,2,3,4", "9,9,1,1", "-1,-1,5,5", "999999999,0,1,2", "1,2,3", "1.5,2,3,4", "１,２,３,４", "1 - 999", "1–30", "0",
    "I", "she", "They", "<|im_end|>", "<|image_pad|>", "```", "İ", "ß", "ﬁ", "a" * 300, "<" * 50, "| " * 40,
    "<gdo " + "x" * 1001 + ">",
)  # fmt: skip
"""What a mutation puts in: parts of the format in the wrong place, and characters that readers stumble over."""


def case(number: int) -> tuple[str, list[Size], random.Random]:
    """The answer of a number, the sizes of its images, and the source of the case's further choices."""
    chance = random.Random(number)
    text, sizes = well_formed(chance) if chance.random() < 0.9 else (chance.choice(seeds()), [(100, 80)])
    return mutated(chance, text), sizes, chance


@cache
def seeds() -> Sequence[str]:
    """The answers of `seeds/`, kept because they once broke something or come close to it."""
    return [file.read_bytes().decode() for file in sorted(SEEDS.glob("*.txt"))]


def well_formed(chance: random.Random) -> tuple[str, list[Size]]:
    """A valid answer, and the (width, height) of its images in pixels."""
    sizes = [(chance.randint(20, 700), chance.randint(20, 700)) for _ in range(chance.randint(1, 3))]
    sections = tuple(_section(chance, number, size) for number, size in enumerate(sizes, 1))
    phases = tuple(
        Phase(name, words(chance), words(chance), (chance.randint(1, len(sizes)),), line=0) for name in PHASES
    )
    passages = tuple(_passage(chance, section) for section in sections)
    written = analysis.render(Analysis(sections, phases)), story.render(Story(passages))
    return answer.join(*written), sizes


def words(chance: random.Random) -> str:
    """A few words: no tag, no line end, no pronoun, no space at the ends."""
    return " ".join(chance.choices(WORDS, k=chance.randint(1, 3)))


def _box(chance: random.Random, size: Size) -> Box:
    x1, y1 = chance.randrange(size[0]), chance.randrange(size[1])
    return Box(x1, y1, chance.randint(x1 + 1, size[0]), chance.randint(y1 + 1, size[1]))


def _section(chance: random.Random, number: int, size: Size) -> Section:
    characters = tuple(_row(CHARACTERS, chance, [f"char{n}", f"Zoe{n}"], size) for n in range(1, chance.randint(1, 3)))
    objects = tuple(
        _row(OBJECTS, chance, [chance.choice(("obj", "lm", "bg")) + str(n)], size)
        for n in range(1, chance.randint(1, 3))
    )
    return Section(number, characters, objects, (_row(SETTINGS, chance, [chance.choice(SETTING_ELEMENTS)]),))


def _row(table: Table[RowT], chance: random.Random, first: list[str], size: Size | None = None) -> RowT:
    """A row of a table: the first cells as given, a box in the image where the table has boxes, words in between."""
    cells = first + [words(chance) for _ in table.columns[len(first) + table.boxed :]]
    return table.build(cells + ([str(_box(chance, size))] if size else []), 0)


def _passage(chance: random.Random, section: Section) -> Passage:
    parts: list[str | Mention] = [words(chance)]
    for row in section.entities:
        kind = next(one.tag for name, one in KINDS.items() if row.id.startswith(name))
        parts += [Mention(chance.choice((kind, "gda")), (row.id,), words(chance)), f" {words(chance)}"]
    return Passage(section.image, tuple(parts))


def mutated(chance: random.Random, text: str) -> str:
    """The text after up to eight mutations; one in sixteen stays as it is."""
    if not chance.randrange(16):
        return text
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        text = chance.choice(MUTATIONS)(chance, text)[:20_000]
    return text


def _span(chance: random.Random, text: str, longest: int) -> tuple[int, int]:
    start = chance.randint(0, len(text))
    return start, min(len(text), start + chance.randint(0, longest))


def _insert(chance: random.Random, text: str) -> str:
    place, _ = _span(chance, text, 0)
    return text[:place] + chance.choice(HOSTILE) * chance.choice((1, 1, 1, 2, 9)) + text[place:]


def _at_a_mark(chance: random.Random, text: str) -> str:
    """Put something right before or after a character that means something: `<`, `>`, `|`, `#`, a line end."""
    places = [place for place, letter in enumerate(text) if letter in "<>|#\n/"]
    if not places:
        return _insert(chance, text)
    place = chance.choice(places) + chance.randint(0, 1)
    return text[:place] + chance.choice(HOSTILE) + text[place:]


def _replace(chance: random.Random, text: str) -> str:
    start, end = _span(chance, text, 12)
    return text[:start] + chance.choice(HOSTILE) + text[end:]


def _delete(chance: random.Random, text: str) -> str:
    start, end = _span(chance, text, chance.choice((1, 4, 40, 400)))
    return text[:start] + text[end:]


def _double(chance: random.Random, text: str) -> str:
    start, end = _span(chance, text, chance.choice((1, 10, 200)))
    return text[:end] + text[start:end] * chance.choice((1, 1, 5)) + text[end:]


def _move(chance: random.Random, text: str) -> str:
    start, end = _span(chance, text, 200)
    taken, rest = text[start:end], text[:start] + text[end:]
    place = chance.randint(0, len(rest))
    return rest[:place] + taken + rest[place:]


def _lines(chance: random.Random, text: str) -> str:
    """Move, drop or double a whole line."""
    lines = text.split("\n")
    line = lines.pop(chance.randrange(len(lines)))
    for _ in range(chance.randint(0, 2)):
        lines.insert(chance.randint(0, len(lines)), line)
    return "\n".join(lines)


def _cut(chance: random.Random, text: str) -> str:
    return text[: chance.randint(0, len(text))]


def _splice(chance: random.Random, text: str) -> str:
    other = chance.choice(seeds()) if chance.randrange(2) else well_formed(chance)[0]
    return text[: chance.randint(0, len(text))] + other[chance.randint(0, len(other)) :]


def _rewrite(chance: random.Random, text: str) -> str:
    """One rule for the whole text: other line ends, other case, no spaces."""
    old, new = chance.choice(
        (("\n", "\r\n"), ("\n", "\r"), ("\n", " "), (" ", ""), ("|", "\\|"), ("gd", "GD"), (">", ""))
    )
    return text.replace(old, new)


def _number(chance: random.Random, text: str) -> str:
    """Another digit for one of the text's: another image, box or ID."""
    places = [place for place, letter in enumerate(text) if letter.isdigit()]
    if not places:
        return text
    place = chance.choice(places)
    return text[:place] + chance.choice(("0", "7", "99", "-3", "", "٣", "12345678901234567890")) + text[place + 1 :]


MUTATIONS: Sequence[Callable[[random.Random, str], str]] = (
    _insert, _insert, _at_a_mark, _at_a_mark, _replace, _delete, _double, _move, _lines, _cut, _splice, _rewrite, _number,
)  # fmt: skip
