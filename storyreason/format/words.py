"""The words of a story that refer to people: personal pronouns, and the names given in the analysis."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from storyreason.format.story import Mention, Passage

PRONOUNS = {
    word: forms.split()[0]
    for forms in (
        "I me my mine myself",
        "you your yours yourself yourselves",
        "he him his himself",
        "she her hers herself",
        "we us our ours ourselves",
        "they them their theirs themselves themself",
    )
    for word in forms.lower().split()
}
"""Every personal pronoun for people, in lower case, and its base form: `him` is a form of `he`."""
FIRST_FORMS = tuple(dict.fromkeys(PRONOUNS.values()))
"""The base forms: I, you, he, she, we, they."""

_WORD = re.compile(r"[^\W\d_]+")
_NO_NAME = {"unknown", "unnamed", "none", "anonymous"}
_PASSED_OVER = 4096
"""How many characters of stray tags may precede a part of a passage."""


class Untagged(NamedTuple):
    """A pronoun or name in plain text, outside of every tag. `pronoun` is its base form, None for a name.

    It begins at character `start` of part number `part` of the passage (both from 0).
    """

    text: str
    pronoun: str | None
    part: int
    start: int


class Names:
    """The names that `untagged` searches for, split once for all passages. A name must begin with a capital letter."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = {words for name in names if (words := _words_of(name))}
        self.lengths = sorted({len(words) for words in self.names}, reverse=True)
        self.first = {words[0] for words in self.names}


def untagged(passage: Passage, names: Names) -> Iterator[Untagged]:
    """The pronouns and names outside of every mention, in order."""
    for number, part in enumerate(passage.parts):
        if isinstance(part, Mention):
            continue
        found = list(_WORD.finditer(part))
        place = 0
        while place < len(found):
            match, length = found[place], 1
            pronoun = PRONOUNS.get(match[0].lower())
            if match[0] in names.first:
                window = tuple(word[0] for word in found[place : place + 4])
                length = next((n for n in names.lengths if n <= len(window) and window[:n] in names.names), 0)
                if length:
                    yield Untagged(part[match.start() : found[place + length - 1].end()], None, number, match.start())
            if pronoun and (match[0] != "i"):
                yield Untagged(match[0], pronoun, number, match.start())
            place += length or 1


def words(text: str) -> list[str]:
    """The words of a text in lower case, without digits and punctuation: `Don't` gives `don` and `t`."""
    return [match[0].lower() for match in _WORD.finditer(text)]


def is_name(name: str) -> bool:
    """Whether a cell holds a name: `Mara` and `John Smith` are names, `-`, `Unknown` and `a man in a hat` are not."""
    return bool(_words_of(name))


def _words_of(name: str) -> tuple[str, ...]:
    """The words of a name such as `John Smith`. Empty for `-`, for lower-case descriptions and for more than four words."""
    words = tuple(_WORD.findall(name))
    return words if words and len(words) <= 4 and name[:1].isupper() and words[0].lower() not in _NO_NAME else ()


def offsets(passage: Passage, story_text: str) -> list[int]:
    """The offset, in characters, of each part of a passage in the story text; for a mention that of its tag."""
    places = []
    place = story_text.find(">", passage.offset) + 1
    for part in passage.parts:
        if isinstance(part, Mention):
            places.append(part.offset)
            text = story_text.find(">", part.offset) + 1
            place = story_text.find(">", text + len(part.text)) + 1
        else:
            # A text part may follow the line end after <gdi image1>, or a stray tag that the parser skipped. The search
            # is bounded: otherwise each of many parts that are not found would scan the whole text.
            found = story_text.find(part, place, place + len(part) + _PASSED_OVER)
            places.append(place if found < 0 else found)
    return places
