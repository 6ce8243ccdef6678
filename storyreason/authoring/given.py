"""What an analysis is given before a model writes it: which entity is where in each image, and the names that are known.

A model's text is read and put into the given tables: IDs, boxes and known names are never the model's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from storyreason.authoring.windows import Sighting, Window
from storyreason.format import analysis, answer, rules, story
from storyreason.format.analysis import Analysis, Section
from storyreason.format.kinds import kind_of
from storyreason.format.problems import Problem, quote
from storyreason.format.story import Mention, Passage, Story
from storyreason.format.tables import PHASES, SETTING_ELEMENTS, Character, Object, Phase, Setting
from storyreason.format.words import is_name

OPEN = "…"
"""A cell that the model fills."""
_Row = TypeVar("_Row", Character, Object)


def called(label: str) -> str:
    """What a detector calls a thing, as a description begins: `landmark: the old mill` gives `The old mill`."""
    kind, _, name = label.partition(":")
    text = " ".join((name or kind).replace("|", " ").replace("<", " ").replace(">", " ").split())
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Given:
    """The analysis of a window before it is written. `names` are those of the film's people that are known, by ID."""

    window: Window
    names: Mapping[str, str]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of each image in pixels."""
        return [shot.size for shot in self.window.shots]

    def people(self, image: int) -> list[Sighting]:
        """Who is in an image, counted from 1."""
        return [seen for seen in self.window.shots[image - 1].seen if kind_of(seen.entity) == "char"]

    def things(self, image: int) -> list[Sighting]:
        """The things, landmarks and backgrounds in an image."""
        return [seen for seen in self.window.shots[image - 1].seen if kind_of(seen.entity) != "char"]

    def skeleton(self) -> str:
        """The analysis with an open cell wherever the model is to write."""
        rest = (OPEN,) * 3
        sections = tuple(
            Section(
                image,
                tuple(
                    Character(seen.entity, self.names.get(seen.entity, OPEN), OPEN, *rest, seen.box)
                    for seen in self.people(image)
                ),
                tuple(
                    Object(seen.entity, f"{called(seen.label)}, {OPEN}", *rest, seen.box) for seen in self.things(image)
                ),
                (Setting(SETTING_ELEMENTS[0], OPEN, *rest),),
            )
            for image in range(1, len(self.window.shots) + 1)
        )
        phases = tuple(Phase(name, OPEN, OPEN, (), OPEN) for name in PHASES)
        return analysis.render(Analysis(sections, phases))

    def read(self, text: str) -> tuple[Analysis, list[Problem]]:
        """A model's text as an analysis with the given IDs, boxes and known names, and what is wrong with it.

        If nothing is, the analysis keeps every rule of the format.
        """
        written, unreadable = analysis.read(text)
        sections = {section.image: section for section in reversed(written.sections)}
        faults: list[Problem] = []
        names = dict(self.names)
        merged = []
        for image in range(1, len(self.window.shots) + 1):
            section = sections.get(image, Section(image))
            characters = self._rows(section.characters, self.people(image), image, faults)
            characters = [replace(row, name=names.setdefault(row.id, row.name)) for row in characters]
            objects = [
                replace(row, description=_described(row.description, seen.label))
                for row, seen in zip(
                    self._rows(section.objects, self.things(image), image, faults), self.things(image), strict=False
                )
            ]
            merged.append(Section(image, tuple(characters), tuple(objects), section.settings))
        told = Analysis(tuple(merged), written.phases)
        faults += _of_names(names, told)
        faults += _open_cells(told)
        faults += _of_rules(told, self.sizes)
        if faults:  # what could not be read explains what is missing
            faults = [*(one for one in unreadable if rules.severity(one.rule) == "error"), *faults]
        return told, list(dict.fromkeys(faults))

    def _rows(self, written: tuple[_Row, ...], seen: list[Sighting], image: int, faults: list[Problem]) -> list[_Row]:
        by_id = {row.id: row for row in reversed(written)}
        wanted = [one.entity for one in seen]
        for one in (row.id for row in written if row.id not in wanted):
            faults.append(Problem("given-unknown", f"{quote(one)} was not given: leave it out.", image=image))
        for one in (one for one in wanted if one not in by_id):
            faults.append(Problem("given-missing", f"{one} was given and has no row.", image=image))
        return [replace(by_id[one.entity], box=one.box, box_text="", line=0) for one in seen if one.entity in by_id]


def _described(text: str, label: str) -> str:
    """A description that begins with what was detected."""
    known = called(label)
    return text if text.lower().startswith(known.lower()) else f"{known}, {text}"


def _of_names(names: Mapping[str, str], told: Analysis) -> Iterator[Problem]:
    owner: dict[str, str] = {}
    first = {row.id: section.image for section in reversed(told.sections) for row in section.characters}
    for entity, name in names.items():
        if entity in first and name != OPEN and not is_name(name):
            message = (
                f"{entity} is called {quote(name)}: a name has one to four words and begins with a capital letter."
            )
            yield Problem("name-missing", message, image=first[entity])
        other = owner.setdefault(name.casefold(), entity)
        if other != entity:
            message = f"{entity} is called {quote(name)}, which is the name of {other}: give it another."
            yield Problem("name-taken", message, image=first.get(entity, first.get(other)))


def _open_cells(told: Analysis) -> Iterator[Problem]:
    for section in told.sections:
        for row in (*section.entities, *section.settings):
            yield from _of_cells(row, getattr(row, "id", "the setting"), section.image)
    for phase in told.phases:
        yield from _of_cells(phase, phase.name, None)


def _of_cells(row: Character | Object | Setting | Phase, what: str, image: int | None) -> Iterator[Problem]:
    for name in row.__slots__:
        cell = getattr(row, name)
        if name in ("box_text", "images_text") or not isinstance(cell, str):
            continue
        if not cell.strip() or cell.strip() == OPEN or cell.endswith(f", {OPEN}"):
            yield Problem("cell-empty", f"A cell of {what} ({name}) is not filled.", image=image)
        elif "<" in cell or ">" in cell:
            yield Problem("cell-text", f"A cell of {what} ({name}) has a < or >.", image=image)


def _of_rules(told: Analysis, sizes: list[tuple[int, int]]) -> Iterator[Problem]:
    """The errors of the analysis by itself; `line` is left out, for the text that is checked is not the model's."""
    passages = (Passage(section.image, ("…",)) for section in told.sections)
    for one in rules.check(answer.of(told, Story(tuple(passages))), sizes):
        if rules.severity(one.rule, grounded=True) == "error" or one.rule in ("setting-element", "phase-name"):
            yield replace(one, line=0, column=0)


def read_story(text: str, thought: str, told: Analysis, sizes: list[tuple[int, int]]) -> list[Problem]:
    """What is wrong with a story of this analysis, whose text is `thought`; lines are those of the story."""
    read = answer.read(answer.join(thought, text))
    before = answer.join(thought, "").count("\n")
    faults = [
        replace(one, line=max(one.line - before, 1))
        for one in rules.check(read, sizes)
        if rules.severity(one.rule, grounded=True) == "error"
    ]
    people = {row.id for section in told.sections for row in section.characters}
    if not any(people & set(one.ids) for passage in story.read(text)[0].passages for one in _mentions(passage)):
        faults.append(Problem("story-ungrounded", "The story mentions none of its people in a tag."))
    return faults


def _mentions(passage: Passage) -> Iterator[Mention]:
    return (part for part in passage.parts if isinstance(part, Mention))
