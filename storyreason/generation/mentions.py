"""The grammar of mentions: whom a tag may name, and by what name. What agrees with the tables is said in `format/naming.py`.

Inside a tag there is no capital letter but in

- a name of its own: a capitalized word of the name or the description of one of its entities, in any image;
- a common word that opens it (`The`, `She`: `naming.COMMON`);
- the owner of a thing: `Mara's umbrella`;
- the first word of a sentence (`Rain fell`), if no person's name has that word and the mention is not one of people.

Long runs of other characters are rules of their own, the same in all grammars, for they are slow to compile (6 s for 240
characters and 150,000 tokens) and xgrammar keeps a compiled rule for every later grammar.
"""

import functools
import sys
from collections.abc import Callable, Iterable, Sequence

from storyreason.format.analysis import Section
from storyreason.format.kinds import KINDS, kind_of
from storyreason.format.naming import COMMON, POSSESSIVE, Naming
from storyreason.generation.gbnf import characters, choice, literal

BEFORE_A_SENTENCE = "[.!?:\u2026] [\"'\u201d\u2019)]? [ \\n]"
"""What ends one sentence before a mention begins the next. `naming.SENTENCE_START` matches after it."""
_BOUNDARY = "[ ,.;:!?'\"()\u2019\u201d\u2026\u2013\u2014\\-]"
_SMALL = frozenset((*range(ord("a"), ord("z") + 1), *range(0xDF, 0xF7), *range(0xF8, 0x100)))
_CAPITAL = frozenset(range(ord("A"), ord("Z") + 1))
ARTICLES = frozenset(("a", "an", "the"))
"""Common words that something must follow."""
_TOGETHER = {4: 3, 8: 2}
"""Up to 4 people in an image: any 3 of them may be named in one mention; up to 8: any 2; in other mentions nobody is."""


@functools.cache
def _all_capitals() -> str:
    return characters(number for number in range(sys.maxunicode + 1) if chr(number).isupper() or chr(number).istitle())


class Mentions:
    """The mentions of one story. `rule` adds a rule to its grammar and returns its name; `span` is the longest run."""

    def __init__(self, rule: Callable[[str], str], sections: Sequence[Section], span: int) -> None:
        self._rule = rule
        self._naming = Naming(sections)
        self._plain = rule(f"[^<\\n{_all_capitals()}] [^<\\n{_all_capitals()}]{{0,{span - 1}}}")
        self._after = rule(f"{_BOUNDARY} [^<\\n{_all_capitals()}]{{0,{span - 1}}}")
        self._common = rule(choice(sorted(word.capitalize() for word in COMMON - ARTICLES)))
        self._article = rule(choice(f"{word.capitalize()} " for word in sorted(ARTICLES)))
        self._people = [id for id in self._naming.capitals if kind_of(id) == "char"]
        self._word = self._first_word()

    def anywhere(self, section: Section) -> list[str]:
        """The mentions of an image's entities that may stand anywhere in its passage."""
        people, things, places = _kinds(section)
        found = []
        if people or things:
            found += [self._gdo(people, things), self._gda(people, things, self._span(self._capitals(people)))]
        return [*found, *(f'"<gdl " {self._of_things(places, [])} "</gdl>"' for _ in places[:1])]

    def opening(self, section: Section) -> list[str]:
        """Those that may begin a sentence with any word but a person's name: `Rain`, `Smiling`."""
        people, things, places = _kinds(section)
        span = self._rule(f"{self._word} {self._after}?")
        found = [self._gda(people, things, span)] if people or things else []
        for tag, ids in (("gdo", things), ("gdl", places)):
            if ids:
                found.append(f'"<{tag} " {self._list(ids)} ">" {span} "</{tag}>"')
        return found

    def _gdo(self, people: list[str], things: list[str]) -> str:
        chosen = [f"{literal(id)} {self._named((id,), people, things)}" for id in people]
        alone = [self._of_things(things, [*people, *things])] if things else []
        return f'"<gdo " {self._rule(" | ".join([*chosen, *alone]))} "</gdo>"'

    def _named(self, chosen: tuple[str, ...], people: list[str], things: list[str]) -> str:
        """What follows the IDs `chosen`: more of them, or the text, in which each may be named."""
        others = [id for id in people if id not in chosen]
        most = next((count for size, count in _TOGETHER.items() if len(people) <= size), 1)
        span = f'">" {self._span(self._capitals(chosen))}'
        ways = [span]
        if len(chosen) < most:
            ways += [f"{literal(f' {id}')} {self._named((*chosen, id), people, things)}" for id in others]
        elif others:
            ways.append(f'" " {self._list([*others, *things])} ">" {self._span(())}')
        if things:
            ways.append(f'" " {self._list(things)} {span}')
        return self._rule(" | ".join(ways))

    def _of_things(self, things: list[str], more: list[str]) -> str:
        """IDs and text of a mention of things or places: one, with its own names, or several."""
        nameless = f'" " {self._list(more or things)} ">" {self._span(())}'
        ways = [
            f'{literal(id)} (">" {self._span(self._naming.capitals[id], self._people)} | {nameless})' for id in things
        ]
        return self._rule(" | ".join(ways))

    def _gda(self, people: list[str], things: list[str], span: str) -> str:
        return f'"<gda " {self._list([*people, *things])} ">" {span} "</gda>"'

    def _list(self, ids: list[str]) -> str:
        one = self._rule(choice(ids))
        return self._rule(f'{one} (" " {one}){{0,{len(ids) - 1}}}')

    def _capitals(self, ids: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(word for id in ids for word in self._naming.capitals[id]))

    def _span(self, names: Iterable[str], owners: Sequence[str] = ()) -> str:
        """A text with these names in it, and with those of `owners` (IDs) as possessives."""
        words = [self._rule(choice(sorted(names)))] if names else []
        if whose := self._capitals(owners):
            words.append(f"{self._rule(choice(sorted(whose)))} ({choice(POSSESSIVE)})")
        if not words:
            return self._rule(f"{self._article}? {self._plain} | {self._common} {self._after}?")
        name = self._rule(" | ".join(words))
        tail = self._rule(f"({name} {self._after}){{0,4}} {name}?")
        return self._rule(
            f"{self._article}? {self._plain} {tail} | ({self._common} | {self._article}? {name}) ({self._after} {tail})?"
        )

    def _first_word(self) -> str:
        """A capitalized word that is no person's name: the letters of all names as a tree, and every way out of it."""
        names = [
            name for name in self._naming.people if {*map(ord, name)} <= _SMALL and ord(name[0].upper()) in _CAPITAL
        ]
        rest = self._rule(f"[{characters(_SMALL)}]{{0,19}}")

        def after(ends: list[str]) -> str:
            """What may follow a beginning that these `ends` would complete to a name."""
            ways = [f"{literal(letter)} {after(longer)}" for letter, longer in _by_letter(ends)]
            others = _SMALL - {ord(end[0]) for end in ends if end}
            return self._rule(" | ".join([*ways, f"[{characters(others)}] {rest}", *([] if "" in ends else ['""'])]))

        known = _by_letter(names)
        ways = [f"{literal(letter.upper())} {after(longer)}" for letter, longer in known]
        others = _CAPITAL - {ord(letter.upper()) for letter, _ in known}
        return self._rule(" | ".join([*ways, *([f"[{characters(others)}] {rest}"] if others else [])]))


def _by_letter(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Words grouped by their first letter, without it: `tom`, `tara` give `t`: `om`, `ara`."""
    found: dict[str, list[str]] = {}
    for word in sorted(words):
        if word:
            found.setdefault(word[0], []).append(word[1:])
    return list(found.items())


def _kinds(section: Section) -> tuple[list[str], list[str], list[str]]:
    """The IDs of an image: people, things, and landmarks and backgrounds."""
    people: list[str] = []
    things: list[str] = []
    places: list[str] = []
    for row in section.entities:
        if kind := kind_of(row.id):
            (places if KINDS[kind].tag == "gdl" else people if kind == "char" else things).append(row.id)
    return people, things, places
