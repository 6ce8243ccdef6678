"""Wrong answers made from right ones: what a model learns to prefer the right answer to.

Each kind breaks one thing and leaves the rest as it was, so that the pictures decide and not the style. Boxes that come from
another frame are scaled to the frame they are put in.

| kind | what is wrong | what shows it |
|---|---|---|
| `mixed-films` | from a frame on, analysis and story are those of another film | boxes |
| `swapped-identities` | two people have each other's ID and name in some of their frames | identity over frames (IDF1) |
| `moved-boxes` | each entity has the box of the next frame it is in, in its last frame that of the first | boxes |
| `absent-mention` | the story mentions somebody (or something) in a frame that does not show them | the rule `id-absent` |
| `exchanged-names` | the story calls two people by each other's name | names in mentions |
| `reordered-frames` | analysis and story of all frames, in turned order | boxes |
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, TypeVar, get_args

from storyreason.format import answer, boxes, grids
from storyreason.format.analysis import Section
from storyreason.format.answer import Answer
from storyreason.format.boxes import Box
from storyreason.format.kinds import kind_of
from storyreason.format.story import Mention, Passage, Story
from storyreason.format.tables import Character, Object

Kind = Literal[
    "mixed-films", "swapped-identities", "moved-boxes", "absent-mention", "exchanged-names", "reordered-frames"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
VERSION = 2
"""Version of what is made. Raising it makes all negatives again."""
APART = 0.5
"""Two boxes are told apart by the scores if they overlap by less than this (IoU)."""

One = TypeVar("One")


@dataclass(frozen=True, slots=True)
class Told:
    """A right answer, and the (width, height) of its frames in pixels."""

    story_id: str
    read: Answer
    sizes: Sequence[grids.Size]


def negative(kind: Kind, told: Told, other: Told | None, seed: int) -> str | None:
    """A wrong answer of this kind; None if the story cannot have one, such as a swap where there is only one person.

    `other` is a right answer to a story of another film with as many frames. The same arguments give the same answer.
    """
    read = told.read
    if read.analysis is None or read.story is None or len(read.analysis.sections) != len(told.sizes):
        return None
    chance = random.Random(f"{seed} {kind} {told.story_id}")
    made = _mixed(told, other, chance) if kind == "mixed-films" else _MAKERS[kind](told, chance)
    return made.text if made is not None and made.text != read.text else None


def _mixed(told: Told, other: Told | None, chance: random.Random) -> Answer | None:
    if other is None or len(told.sizes) < 2 or len(other.sizes) != len(told.sizes):
        return None
    first = chance.randrange(2, len(told.sizes) + 1)
    places = [(told, image) if image < first else (other, image) for image in range(1, len(told.sizes) + 1)]
    return _from_frames(told, places)


def _reordered(told: Told, chance: random.Random) -> Answer | None:
    frames = len(told.sizes)
    if frames < 2:
        return None
    turn = chance.randrange(1, frames)
    return _from_frames(told, [(told, (image + turn) % frames + 1) for image in range(frames)])


def _from_frames(told: Told, places: Sequence[tuple[Told, int]]) -> Answer | None:
    """For each image of `told` the section and passage of that image of another answer; None if no box tells."""
    sections, passages = [], []
    for image, (source, at) in enumerate(places, 1):
        section, passage = _section(source, at), _passage(source, at)
        if section is None or passage is None:
            return None
        change = (source.sizes[at - 1], told.sizes[image - 1])
        sections.append(replace(_resized(section, change), image=image))
        passages.append(replace(passage, image=image))
    return _boxes_tell(told, _with(told, sections, passages))


def _moved(told: Told, chance: random.Random) -> Answer | None:
    found: dict[str, list[tuple[int, Box]]] = {}
    for section in _sections(told):
        for row in section.entities:
            if row.box is not None:
                found.setdefault(row.id, []).append((section.image, row.box))
    instead = {
        (image, id): grids.convert(box, (told.sizes[source - 1], told.sizes[image - 1]))
        for id, places in found.items()
        for (image, _), (source, box) in zip(places, [*places[1:], places[0]], strict=True)
    }
    sections = [_with_boxes(section, instead) for section in _sections(told)]
    return _boxes_tell(told, _with(told, sections))


def _swapped(told: Told, chance: random.Random) -> Answer | None:
    people: dict[str, dict[int, Box]] = {}
    for section in _sections(told):
        for row in section.characters:
            if row.box is not None:
                people.setdefault(row.id, {})[section.image] = row.box
    for one, two in _shuffled(list(combinations(people, 2)), chance):
        shared = sorted(people[one].keys() & people[two].keys())
        apart = {image for image in shared if boxes.iou(people[one][image], people[two][image]) < APART}
        either = people[one].keys() | people[two].keys()
        for start in _shuffled(range(len(shared)), chance):
            swapped = set(shared[start:])
            if swapped & apart and (either - swapped) & (apart | (either - set(shared))):
                return _with(told, [_swap(one, two, s) if s.image in swapped else s for s in _sections(told)])
    return None


def _swap(one: str, two: str, section: Section) -> Section:
    rows = {row.id: row for row in section.characters}
    instead = {one: rows[two], two: rows[one]}

    def exchanged(row: Character) -> Character:
        new = instead.get(row.id)
        return row if new is None else replace(row, id=new.id, name=new.name)

    return replace(section, characters=tuple(map(exchanged, section.characters)))


def _absent(told: Told, chance: random.Random) -> Answer | None:
    shown = {section.image: {row.id for row in section.entities} for section in _sections(told)}
    called = _called(told)
    places = [
        (passage, number, part, absent)
        for passage in _story(told).passages
        for number, part in enumerate(passage.parts)
        if isinstance(part, Mention) and part.kind == "gdo" and len(part.ids) == 1
        for absent in called
        if absent not in shown.get(passage.image, {absent}) and kind_of(absent) == kind_of(part.ids[0])
    ]
    people = [place for place in places if kind_of(place[3]) == "char"]
    if not places:
        return None
    passage, number, part, absent = chance.choice(people or places)
    parts = list(passage.parts)
    parts[number] = replace(part, ids=(absent,), text=called[absent])
    passages = [replace(one, parts=tuple(parts)) if one is passage else one for one in _story(told).passages]
    return _with(told, _sections(told), passages)


def _called(told: Told) -> dict[str, str]:
    """What the story can call each person and thing: the name in the tables, or the text of its first mention."""
    named = {row.id: row.name for section in _sections(told) for row in section.characters if row.name}
    found: dict[str, str] = {}
    for passage in _story(told).passages:
        for part in _mentions(passage):
            if part.kind == "gdo" and len(part.ids) == 1:
                found.setdefault(part.ids[0], named.get(part.ids[0], part.text))
    return found


def _exchanged(told: Told, chance: random.Random) -> Answer | None:
    named = {row.id: row.name for section in _sections(told) for row in section.characters if row.name}
    for one, two in _shuffled(list(combinations(named, 2)), chance):
        if named[one] in named[two] or named[two] in named[one]:
            continue
        names = {one: (named[one], named[two]), two: (named[two], named[one])}
        passages = [
            replace(passage, parts=tuple(_renamed(part, names) for part in passage.parts))
            for passage in _story(told).passages
        ]
        if tuple(passages) != _story(told).passages:
            return _with(told, _sections(told), passages)
    return None


def _renamed(part: str | Mention, names: Mapping[str, tuple[str, str]]) -> str | Mention:
    if isinstance(part, str) or len(part.ids) != 1 or part.ids[0] not in names:
        return part
    return replace(part, text=part.text.replace(*names[part.ids[0]]))


_MAKERS: Mapping[Kind, Callable[[Told, random.Random], Answer | None]] = {
    "swapped-identities": _swapped,
    "moved-boxes": _moved,
    "absent-mention": _absent,
    "exchanged-names": _exchanged,
    "reordered-frames": _reordered,
}


def _sections(told: Told) -> tuple[Section, ...]:
    return told.read.analysis.sections if told.read.analysis else ()


def _story(told: Told) -> Story:
    return told.read.story or Story()


def _section(told: Told, image: int) -> Section | None:
    return next((one for one in _sections(told) if one.image == image), None)


def _passage(told: Told, image: int) -> Passage | None:
    return next((one for one in _story(told).passages if one.image == image), None)


def _mentions(passage: Passage) -> Iterator[Mention]:
    return (part for part in passage.parts if isinstance(part, Mention))


def _with(told: Told, sections: Sequence[Section], passages: Sequence[Passage] | None = None) -> Answer:
    """The answer with other sections and, unless None, other passages."""
    assert told.read.analysis is not None
    thought = replace(told.read.analysis, sections=tuple(sections))
    return answer.of(thought, _story(told) if passages is None else Story(tuple(passages)))


def _boxes_tell(told: Told, made: Answer) -> Answer | None:
    """The answer, if a box of the right one overlaps none of its boxes in that image enough."""
    assert made.analysis is not None
    wrong = {section.image: [row.box for row in section.entities if row.box] for section in made.analysis.sections}
    for section in _sections(told):
        for row in section.entities:
            if row.box and all(boxes.iou(row.box, box) < APART for box in wrong.get(section.image, ())):
                return made
    return None


def _resized(section: Section, change: grids.Change) -> Section:
    instead = {(section.image, row.id): grids.convert(row.box, change) for row in section.entities if row.box}
    return _with_boxes(section, instead)


def _with_boxes(section: Section, instead: Mapping[tuple[int, str], Box]) -> Section:
    def boxed(row: Character | Object) -> Character | Object:
        box = instead.get((section.image, row.id))
        return row if box is None else replace(row, box=box)

    return replace(
        section,
        characters=tuple(map(boxed, section.characters)),  # type: ignore[arg-type]
        objects=tuple(map(boxed, section.objects)),  # type: ignore[arg-type]
    )


def _shuffled(of: Sequence[One], chance: random.Random) -> list[One]:
    found = list(of)
    chance.shuffle(found)
    return found
