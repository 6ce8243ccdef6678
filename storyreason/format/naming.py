"""What entities are called: whether a name stays the same from image to image, and whether a mention uses it.

A *name word* of a mention is a word with a capital letter and then a small one (`Mara`, not `TV`), unless

- it is a word that opens many phrases, or one for a person (`The`, `Two`, `Woman`: `COMMON`), or a pronoun;
- `'s` follows it: `Mara's umbrella` calls an umbrella that;
- it is the first word of a sentence (`Rain fell`). It counts nevertheless if it is part of a person's name in the tables,
  and if the mention is one of people and has nothing but capitalized words up to its end or first comma (`Leo`, `Leo, a
  boy`).

A mention *agrees* with the tables if each of its name words is in the name or the description of one of its entities, in any
image. Grounded decoding (`generation/grammar.py`) allows no other.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from storyreason.format.analysis import Section
from storyreason.format.kinds import kind_of
from storyreason.format.story import Mention, Passage
from storyreason.format.tables import Character, Object
from storyreason.format.words import PRONOUNS, is_name, words


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


MEN = _set(
    "man men boy boys gentleman gentlemen guy male father dad son brother husband uncle grandfather grandpa king prince "
    "waiter policeman fireman fisherman businessman"
)
WOMEN = _set(
    "woman women girl girls lady ladies female mother mom daughter sister wife aunt grandmother grandma queen princess "
    "waitress policewoman businesswoman"
)
"""Words by which a description states somebody's gender; the first of them in it decides."""
COMMON = frozenset(PRONOUNS) | MEN | WOMEN | _set(
    "a an the this that these those some any each every both all many several few another other such what which who whose "
    "no one two three four five six seven eight nine ten someone somebody everyone everybody anyone anybody nobody "
    "something everything nothing it its itself others neither either none at in on near behind beside above below under "
    "over across through between inside outside around from with of and but as when while here there now then "
    "child children kid kids baby babies people person friend friends couple parents family crowd adult adults "
    "stranger strangers guest guests young old little"
)  # fmt: skip
"""Words in lower case that are no name, also with a capital letter."""

SENTENCE_START = re.compile(r"(?:\A|[.!?\u2026:][\"'\u201d\u2019)\]]*\s|\n|[\"\u201c\u2018(])\s*\Z")
"""Matches a text after which a sentence begins: nothing, the end of another sentence, an opening quotation mark."""
POSSESSIVE = ("'s", "\u2019s")

_WORD = re.compile(r"[^\W\d_]+")
_CONTEXT = 40
"""Characters before a mention that are looked at, to see whether a sentence begins."""


class Change(NamedTuple):
    """A row that names a person otherwise than an earlier image does."""

    row: Character
    section: Section
    before: str


class Naming:
    """The names in the tables of one analysis, by ID."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self.names: dict[str, dict[str, str]] = defaultdict(dict)
        """Each ID's names as they are compared (`_key`), in the order of the text, and as they are written."""
        self.changes: list[Change] = []
        self.images: dict[str, set[int]] = defaultdict(set)
        """The images in which an ID has a name."""
        self.own: dict[str, set[str]] = defaultdict(set)
        """The words of an ID's names and descriptions, in lower case."""
        self.capitals: dict[str, dict[str, None]] = defaultdict(dict)
        """Those that begin with a capital letter, as they are written, in the order of the text."""
        self.gender: dict[str, str | None] = {}
        """`he` or `she` where the descriptions of an ID state one; None where they contradict each other."""
        for section in sections:
            for row in section.entities:
                self._add(row, section)
        people = [word for names in self.names.values() for name in names.values() for word in _WORD.findall(name)]
        self.people = {word.lower() for word in people if _capitalized(word)} - COMMON
        """The words of all people's names, in lower case."""

    def _add(self, row: Character | Object, section: Section) -> None:
        text = row.description if isinstance(row, Object) else f"{row.name} {row.description}"
        self.own[row.id].update(words(text))
        self.capitals[row.id].update(dict.fromkeys(word for word in _WORD.findall(text) if word[0].isupper()))
        if isinstance(row, Object):
            return
        if stated := _stated(row.description):
            self.gender[row.id] = stated if self.gender.get(row.id, stated) == stated else None
        if not is_name(row.name):
            return
        known = self.names[row.id]
        if known and _key(row.name) not in known:
            self.changes.append(Change(row, section, next(iter(known.values()))))
        known.setdefault(_key(row.name), row.name)
        self.images[row.id].add(section.image)

    def called(self, mention: Mention, before: str) -> list[str]:
        """The name words of a mention; `before` is the text of its passage in front of it, without tags."""
        if mention.kind == "gda":
            return []
        found = list(_WORD.finditer(mention.text))
        called = []
        for place, match in enumerate(found):
            word = match[0]
            if not _capitalized(word) or word.lower() in COMMON:
                continue
            if mention.text.startswith(POSSESSIVE, match.end()):
                continue
            opens = place == 0 and SENTENCE_START.search(before) is not None
            if opens and word.lower() not in self.people and not _bare(mention):
                continue
            called.append(word)
        return called

    def foreign(self, mention: Mention, called: Sequence[str]) -> list[str]:
        """Those of a mention's name words that are in no name or description of its entities."""
        own = [self.own[id] for id in mention.ids if id in self.own]
        return [word for word in called if not any(word.lower() in words_ for words_ in own)]


def mentions(passage: Passage) -> Iterator[tuple[Mention, str]]:
    """The mentions of a passage, each with the last characters of the text before it."""
    before = ""
    for part in passage.parts:
        text = part.text if isinstance(part, Mention) else part
        if isinstance(part, Mention):
            yield part, before
        before = (before + text)[-_CONTEXT:]


def _capitalized(word: str) -> bool:
    return word[:1].isupper() and word[1:2].islower()


def _bare(mention: Mention) -> bool:
    """Whether a mention of people is a name alone or before a comma: `Leo`, `Leo Smith, a boy`, not `Tired men`."""
    if any(kind_of(id) != "char" for id in mention.ids):
        return False
    head = _WORD.findall(mention.text.partition(",")[0])
    return all(word[:1].isupper() for word in head)


def _key(name: str) -> str:
    return " ".join(name.split()).casefold()


def _stated(description: str) -> str | None:
    for word in words(description):
        if word in MEN or word in WOMEN:
            return "he" if word in MEN else "she"
    return None
