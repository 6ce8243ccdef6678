"""Invents films and the stories in them: who, what, where, and who is in which image."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from storyreason.format.kinds import Kind
from storyreason.format.tables import PHASES
from storyreason.sample.drawing import Frame
from storyreason.sample.staging import in_reading_order, stage
from storyreason.sample.world import (
    LANDMARKS,
    Entity,
    Landmark,
    Light,
    Look,
    Part,
    Place,
    Region,
    Thing,
    a_name,
    backgrounds,
    looks,
    things,
)

FILMS: dict[Part, int] = {"train": 480, "test": 30}
STORIES_PER_FILM = 2

T = TypeVar("T", Look, Thing)
PlotName = Literal["lost", "late", "quarrel"]
"""`lost`: the thing is lost and found; `late`: the friend comes late; `quarrel`: two people want the same thing."""

_ANGLES: dict[int, tuple[str, ...]] = {
    5: PHASES,
    6: (PHASES[0], PHASES[1], *PHASES[1:]),
    7: (PHASES[0], PHASES[1], PHASES[1], PHASES[2], *PHASES[2:]),
}
"""The phase of each image, by the number of images."""


@dataclass(frozen=True, slots=True)
class Film:
    """A cast in a place at a time of day. The first person is the hero, the first thing the object of the plot."""

    name: str
    place: Place
    light: Light
    horizon: int
    people: tuple[Look, ...]
    names: tuple[str, ...]
    things: tuple[Thing, ...]
    landmark: Landmark | None
    with_region: bool


@dataclass(frozen=True, slots=True)
class Shot:
    """One image of a story and the narrative phase it tells."""

    phase: str
    frame: Frame


@dataclass(frozen=True, slots=True)
class Tale:
    """A story before it is written. `ids` numbers the entities in the order of their first appearance."""

    story_id: str
    film: Film
    plot: PlotName
    shots: tuple[Shot, ...]
    ids: dict[Entity, str]

    def name_of(self, look: Look) -> str:
        return self.film.names[self.film.people.index(look)]


def tales(part: Part, seed: int, films: int | None = None) -> Iterator[Tale]:
    """The stories of a split, in order. Each film has a seed of its own, so more films do not change the earlier ones."""
    for number in range(1, (films or FILMS[part]) + 1):
        luck = random.Random(f"storyreason sample/{seed}/{part}/{number}")
        film = _film(part, number, luck)
        for k in range(1, STORIES_PER_FILM + 1):
            yield _tale(f"{film.name}-{k}", film, luck)


def _film(part: Part, number: int, luck: random.Random) -> Film:
    place, light = luck.choice(backgrounds(part))
    people = _different(looks(part), luck.choices((1, 2, 3), (2, 6, 3))[0], "coat", luck)
    belongings = _different(things(), luck.choices((1, 2), (3, 2))[0], "shape", luck)
    room = 5 - len(people) - len(belongings)
    landmark = Landmark(luck.choice(LANDMARKS)) if room and luck.random() < 0.4 else None
    with_region = room > (landmark is not None) and bool(place.region)
    names: list[str] = []
    for look in people:
        names.append(a_name(look, set(names), luck))
    thing = belongings[0]
    # The numbers of the test films continue those of the training films, so that no two films share a name.
    name = f"{thing.colour}-{thing.shape}-{number + (FILMS['train'] if part == 'test' else 0):03d}"
    return Film(
        name, place, light, luck.choice((49, 56)), tuple(people), tuple(names), tuple(belongings), landmark, with_region
    )


def _different(pool: Sequence[T], count: int, attribute: str, luck: random.Random) -> list[T]:
    """`count` members of the pool that all differ in `attribute`, so that the people of a film can be distinguished."""
    chosen: list[T] = []
    while len(chosen) < count:
        one = luck.choice(pool)
        if all(getattr(one, attribute) != getattr(other, attribute) for other in chosen):
            chosen.append(one)
    return chosen


def _tale(story_id: str, film: Film, luck: random.Random) -> Tale:
    plots: tuple[PlotName, ...] = ("lost", "late", "quarrel") if len(film.people) > 1 else ("lost",)
    plot = luck.choice(plots)
    phases = _ANGLES[luck.choices((5, 6, 7), (4, 3, 2))[0]]
    present = [_present(film, plot, phase, luck) for phase in phases]
    _show_everything(film, phases, present)
    shots = []
    for number, (phase, entities) in enumerate(zip(phases, present, strict=True)):
        # The region is seen at the start and now and then.
        region = film.with_region and (number == 0 or luck.random() < 0.6)
        shots.append(Shot(phase, stage(entities, film.place, film.light, film.horizon, luck, region)))
    return Tale(story_id, film, plot, tuple(shots), _number(shots))


def _present(film: Film, plot: PlotName, phase: str, luck: random.Random) -> list[Entity]:
    """The entities of an image: at least one person, at most four figures."""
    hero, *friends = film.people
    thing, *details = film.things
    some = [friend for friend in friends if luck.random() < 0.6]
    lines: dict[tuple[str, str], list[Entity]] = {
        ("lost", "Introduction"): [hero, thing],
        ("lost", "Development"): [hero, *some, *([thing] if luck.random() < 0.7 else [])],
        ("lost", "Conflict"): [hero, *some],
        ("lost", "Turning Point"): [*(friends[:1] or [hero]), thing],
        ("late", "Introduction"): [hero, *([thing] if luck.random() < 0.6 else [])],
        ("late", "Development"): [hero, thing],
        ("late", "Conflict"): [hero],
        ("late", "Turning Point"): [*friends],
        ("quarrel", "Introduction"): [hero, *some],
        ("quarrel", "Development"): [*friends[:1], *([thing] if luck.random() < 0.7 else [])],
        ("quarrel", "Conflict"): [hero, friends[0] if friends else hero, thing],
        ("quarrel", "Turning Point"): [friends[0] if friends else hero, *([thing] if luck.random() < 0.4 else [])],
    }
    entities = lines.get((plot, phase), [hero, *friends, thing])
    extras: list[Entity] = [*details, *([film.landmark] if film.landmark else [])]
    for extra in extras:
        if len(entities) < 4 and luck.random() < 0.5:
            entities = [*entities, extra]
    return entities


def _show_everything(film: Film, phases: Sequence[str], present: list[list[Entity]]) -> None:
    """Put a detail or landmark that is in no image yet into the emptiest one."""
    extras: list[Entity] = [*film.things[1:], *([film.landmark] if film.landmark else [])]
    for extra in extras:
        if not any(extra in entities for entities in present):
            min(present, key=len).append(extra)


def _number(shots: Sequence[Shot]) -> dict[Entity, str]:
    ids: dict[Entity, str] = {}
    for shot in shots:
        for placed in in_reading_order(shot.frame.placed):
            kind = kind_of(placed.entity)
            count = sum(1 for entity in ids if kind_of(entity) == kind)
            ids.setdefault(placed.entity, f"{kind}{count + 1}")
    return ids


def kind_of(entity: Entity) -> Kind:
    """The kind that the entity's ID says."""
    kinds: dict[type, Kind] = {Look: "char", Thing: "obj", Landmark: "lm", Region: "bg"}
    return kinds[type(entity)]
