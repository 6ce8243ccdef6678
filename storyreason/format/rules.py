"""The rules of the format, each with a name and a severity. This is the only place that defines what is valid."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from storyreason.format.analysis import Analysis, Section, column
from storyreason.format.answer import Answer
from storyreason.format.kinds import ID, KINDS, Kind, kinds_in
from storyreason.format.naming import Naming, mentions
from storyreason.format.problems import Problem, Tally, quote
from storyreason.format.story import Finding, Mention, Passage, Story, placed
from storyreason.format.tables import (
    CHARACTERS,
    ENTITY_TABLES,
    NARRATIVE,
    PHASES,
    SETTING_ELEMENTS,
    Character,
    Object,
    Phase,
    Table,
)
from storyreason.format.words import Names, offsets, untagged

Sizes = Sequence[tuple[int, int]]
"""Width and height of each image in pixels, in order."""


class Rule(NamedTuple):
    """A rule and its severity. A broken rule of severity `error` makes an answer invalid; a `warning` does not, except
    for those in `GROUNDED`."""

    severity: Literal["error", "warning"]
    sentence: str


def _error(sentence: str) -> Rule:
    return Rule("error", sentence)


def _warning(sentence: str) -> Rule:
    return Rule("warning", sentence)


RULES = {
    "answer-unreadable": _error("An answer has <think> and at least one '## Image N' section."),
    "answer-truncated": _error("An answer has </think>."),
    "image-sections": _error("The analysis has one section for each image, in order."),
    "story-images": _error("The story has one <gdi imageN> for each image, in order."),
    "table-shape": _error("A table has the published heading and columns, and every row has one cell per column."),
    "table-head": _error("The rows of a table are below the published columns and their separator."),
    "table-repeated": _error("An image has each table once, and an answer has one narrative structure."),
    "id-malformed": _error("An ID looks like char1, obj1, lm1 or bg1; char IDs are in Characters, all others in Objects."),
    "id-repeated": _error("An ID appears only once in the tables of an image."),
    "box-unreadable": _error("A bounding box is four whole numbers, x1,y1,x2,y2."),
    "box-inverted": _error("A bounding box has x1 < x2 and y1 < y2."),
    "box-outside": _error("A bounding box begins at 0 or above and ends within 1.1 times the image size."),
    "setting-missing": _error("Each image has a Setting table with at least one row."),
    "phase-missing": _error("The narrative structure has all five phases."),
    "phase-images": _error("A phase lists images that exist in the story."),
    "id-unknown": _error("An ID in the story is defined in the analysis."),
    "id-absent": _error("An entity is mentioned only in images whose tables list it."),
    "tag-malformed": _error("A tag is <gdi imageN>, <gdo id>, <gda id> or <gdl id>, or its closing tag."),
    "tag-unclosed": _error("Each tag has a matching closing tag, and each closing tag an opening one."),
    "tag-nested": _error("The tags inside a <gdi> are not nested."),
    "text-outside-image": _error("All text of the story is inside a <gdi>, and there is none before <think>."),
    "analysis-text": _warning("The analysis has only the published headings and tables, no other text."),
    "box-over-edge": _warning("A bounding box is within the image; up to 1.1 times the image size it is clipped."),
    "setting-element": _warning("A Setting Element is one of the nine published ones."),
    "phase-name": _warning("A Narrative Phase is one of the five published ones."),
    "tag-kind": _warning("<gdo> tags char and obj, <gdl> tags lm and bg."),
    "pronoun-untagged": _warning("A personal pronoun is inside a tag."),
    "name-untagged": _warning("A character's name is inside a tag."),
    "name-changed": _warning("A character has the same name in every image."),
    "name-foreign": _warning("A capitalized name in a mention is one of its own entity, in the tables."),
}  # fmt: skip
"""Every rule by its name, which `Problem.rule` refers to. Names are stable: metrics in MLflow are named after them."""
GROUNDED = frozenset({"name-changed", "name-foreign"})
"""Warnings that are errors in an answer that was decoded grounded: its grammars do not allow them."""


def check(answer: Answer, sizes: Sizes | None) -> list[Problem]:
    """Every problem of an answer, including those found while parsing, in the order of the text.

    `sizes` are the (width, height) of the images in pixels. If they are unknown (None), the images are assumed to be the
    sections of the analysis, and boxes are not checked against the image size.
    """
    checker = _Checker(answer, sizes)
    if answer.readable and answer.analysis:
        checker.analysis(answer.analysis)
        if answer.story:
            checker.story(answer.story, answer.analysis)
    problems = [*answer.problems, *checker.problems, *placed(checker.findings, answer.text, checker.story_start)]
    return sorted(problems, key=lambda problem: (problem.line, problem.column))


def severity(rule: str, grounded: bool = False) -> Literal["error", "warning"]:
    """The severity of a rule in an answer; `grounded`: one that was decoded grounded."""
    return "error" if grounded and rule in GROUNDED else RULES[rule].severity


def is_valid(problems: Iterable[Problem], grounded: bool = False) -> bool:
    """Whether there is no problem of severity error; `grounded` as for `severity`."""
    return all(severity(problem.rule, grounded) == "warning" for problem in problems)


_ID = re.compile(ID)
_TAGS: dict[str, str] = {name: kind.tag for name, kind in KINDS.items()}
_TABLES = tuple((table, kinds_in(table.name)) for table in ENTITY_TABLES)


class _Checker:
    """Goes through an answer once and collects what it finds. Columns are only looked up for problems."""

    def __init__(self, answer: Answer, sizes: Sizes | None) -> None:
        self.problems: list[Problem] = []
        self.findings: list[Finding] = []
        self.story_start = len(answer.text) - len(answer.story_text)
        self._answer = answer
        self._sizes = sizes or ()
        self._count = len(answer.analysis.sections if answer.analysis else ()) if sizes is None else len(sizes)
        self._lines: list[str] | None = None
        self._tally = Tally()
        self.naming = Naming(answer.analysis.sections if answer.analysis else ())

    def analysis(self, analysis: Analysis) -> None:
        found = [section.image for section in analysis.sections]
        if found != list(range(1, self._count + 1)):
            message = f"The analysis has sections for images {_list(found)}, but there are {self._count} images."
            self._row("image-sections", message, analysis.sections[_first_wrong(found)].line)
        for section in analysis.sections:
            self._section(section)
        missing = [name for name in PHASES if name not in {phase.name for phase in analysis.phases}]
        if missing:
            place = analysis.phases[0] if analysis.phases else analysis.sections[-1]
            self._row("phase-missing", f"The narrative structure lacks {', '.join(missing)}.", place.line)
        for phase in analysis.phases:
            self._phase(phase)
        for row, section, before in self.naming.changes:
            message = f"{row.id} is called {quote(row.name)} here, and {quote(before)} in an earlier image."
            self._row("name-changed", message, row.line, section, CHARACTERS.place("name"))

    def _section(self, section: Section) -> None:
        seen: set[str] = set()
        for table, kinds in _TABLES:
            for row in section.rows(table):
                match = _ID.fullmatch(row.id)
                if not match or match[1] not in kinds:
                    message = f"{quote(row.id)} is not a valid ID in this table: write {_ids(kinds)}."
                    self._row("id-malformed", message, row.line, section)
                if row.id in seen:
                    self._row(
                        "id-repeated", f"{row.id} appears more than once in image {section.image}.", row.line, section
                    )
                seen.add(row.id)
                self._box(row, section, table)
        if not section.settings:
            self._row("setting-missing", f"Image {section.image} has no Setting table.", section.line, section)
        for setting in section.settings:
            if setting.element not in SETTING_ELEMENTS:
                message = f"{quote(setting.element)} is not one of {', '.join(SETTING_ELEMENTS)}."
                self._row("setting-element", message, setting.line, section)

    def _box(self, row: Character | Object, section: Section, table: Table[Character | Object]) -> None:
        box = row.box
        if box is None:
            return  # already reported by the parser
        rule = ""
        if box.x1 >= box.x2 or box.y1 >= box.y2:
            rule, message = "box-inverted", f"The box {box} has no area: write x1 < x2 and y1 < y2."
        elif 1 <= section.image <= len(self._sizes):
            width, height = self._sizes[section.image - 1]
            image = f"image {section.image}, {width} x {height} pixels"
            if box.x1 < 0 or box.y1 < 0 or 10 * box.x2 > 11 * width or 10 * box.y2 > 11 * height:
                rule, message = "box-outside", f"The box {box} is outside {image}."
            elif box.x2 > width or box.y2 > height:
                rule, message = "box-over-edge", f"The box {box} extends beyond the edge of {image}."
        if rule:
            self._row(rule, message, row.line, section, table.place("box"))

    def _phase(self, phase: Phase) -> None:
        if phase.name not in PHASES:
            self._row("phase-name", f"{quote(phase.name)} is not one of {', '.join(PHASES)}.", phase.line)
        cell = NARRATIVE.place("images")
        outside = [image for image in phase.images if not 1 <= image <= self._count]
        if outside:
            message = f"{phase.name} lists images {_list(outside)}, but there are {self._count} images."
            self._row("phase-images", message, phase.line, cell=cell)
        elif not phase.images:
            self._row("phase-images", f"{quote(phase.images_text)} does not name any image.", phase.line, cell=cell)

    def story(self, story: Story, analysis: Analysis) -> None:
        found = [passage.image for passage in story.passages]
        if found != list(range(1, self._count + 1)):
            place = story.passages[_first_wrong(found)].offset if found else 0
            message = f"The story covers images {_list(found)}, but there are {self._count} images."
            self._span("story-images", message, place)
        present: dict[int, set[str]] = {}
        for section in analysis.sections:
            present.setdefault(section.image, set()).update(row.id for row in section.entities)
        known = set().union(*present.values())
        names = Names(row.name for section in analysis.sections for row in section.characters)
        for passage in story.passages:
            for mention, before in mentions(passage):
                self._mention(mention, passage.image, known, present.get(passage.image, set()))
                self._called(mention, before, passage.image)
            self._untagged(passage, names)

    def _mention(self, mention: Mention, image: int, known: set[str], present: set[str]) -> None:
        if not mention.ids:
            self._span("id-malformed", f"<{mention.kind}> has no ID.", mention.offset, image)
        for id_ in mention.ids:
            match = _ID.fullmatch(id_)
            if not match:
                self._span("id-malformed", f"{quote(id_)} is not a valid ID.", mention.offset, image)
            elif id_ not in known:
                self._span("id-unknown", f"{id_} is not in the analysis.", mention.offset, image)
            elif id_ not in present:
                self._span("id-absent", f"{id_} is not in the tables of image {image}.", mention.offset, image)
            if match and mention.kind != "gda" and mention.kind != _TAGS[match[1]]:
                self._span("tag-kind", f"{id_} is in a <{mention.kind}> tag.", mention.offset, image)

    def _called(self, mention: Mention, before: str, image: int) -> None:
        if foreign := self.naming.foreign(mention, self.naming.called(mention, before)):
            of = " or ".join(mention.ids[:3])
            message = f"{quote(' '.join(foreign[:3]))} is not in the name or description of {of}."
            self._span("name-foreign", message, mention.offset, image)

    def _untagged(self, passage: Passage, names: Names) -> None:
        found = list(untagged(passage, names))
        places = offsets(passage, self._answer.story_text) if found else []
        for word in found:
            rule = "pronoun-untagged" if word.pronoun else "name-untagged"
            self._span(rule, f"{word.text!r} is not inside a tag.", places[word.part] + word.start, passage.image)

    def _row(self, rule: str, message: str, line: int, section: Section | None = None, cell: int = 0) -> None:
        if not self._tally.allows(rule):
            return
        if self._lines is None:
            self._lines = self._answer.text.split("\n")
        text = self._lines[line - 1] if 1 <= line <= len(self._lines) else ""
        self.problems.append(Problem(rule, message, line, column(text, cell), section.image if section else None))

    def _span(self, rule: str, message: str, offset: int, image: int | None = None) -> None:
        if self._tally.allows(rule):
            self.findings.append(Finding(rule, message, offset, image))


def _list(numbers: Sequence[int]) -> str:
    return (", ".join(map(str, numbers[:30])) + (", …" if len(numbers) > 30 else "")) or "none"


def _ids(kinds: Sequence[Kind]) -> str:
    """`obj1, lm1 or bg1`."""
    *others, last = (f"{kind}1" for kind in kinds)
    return f"{', '.join(others)} or {last}" if others else last


def _first_wrong(found: Sequence[int]) -> int:
    return next((place for place, image in enumerate(found) if image != place + 1), len(found) - 1)
