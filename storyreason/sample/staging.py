"""Places entities in a frame: side by side on a grid, so that none hides another and every box can be learned."""

import random
from collections.abc import Sequence
from dataclasses import replace

from storyreason.format.boxes import Box
from storyreason.sample.drawing import Frame, PlacedEntity
from storyreason.sample.world import HEIGHT, WIDTH, Entity, Landmark, Light, Look, Place, Region, Thing

GRID = 7
"""Pixels. Every corner lies on this grid."""

_SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "ball": ((28, 28), (35, 35)),
    "kite": ((28, 42), (35, 49)),
    "umbrella": ((35, 35), (42, 42)),
    "suitcase": ((28, 28), (35, 28)),
    "lantern": ((28, 35), (28, 42)),
    "dog": ((35, 28), (42, 35)),
    "bicycle": ((42, 28), (49, 35)),
    "drum": ((28, 28), (35, 35)),
    "lighthouse": ((28, 70),),
    "clock tower": ((28, 63), (35, 70)),
    "windmill": ((42, 56), (49, 63)),
    "bridge": ((56, 28), (63, 28)),
}
_PEOPLE = ((28, 63), (28, 70), (35, 77))
_REGION_HEIGHT = {"sea": 21, "row of houses": 35, "mountains": 35, "forest": 28}
_POSES = ("stand", "wave", "walk")


def _size(entity: Entity, luck: random.Random) -> tuple[int, int]:
    if isinstance(entity, Look):
        return luck.choice(_PEOPLE)
    if isinstance(entity, Thing):
        return luck.choice(_SIZES[entity.shape])
    if isinstance(entity, Landmark):
        return luck.choice(_SIZES[entity.building])
    return WIDTH, _REGION_HEIGHT[entity.name]


def _foot(entity: Entity, height: int, horizon: int, luck: random.Random) -> int:
    """The lower edge: a kite flies, a landmark stands behind the horizon, everything else on the ground."""
    if isinstance(entity, Thing) and entity.shape == "kite":
        return luck.choice((7, 14)) + height
    if isinstance(entity, Landmark):
        return max(height, horizon + GRID)
    return luck.choice((98, 105, 112)) if height < 77 else luck.choice((105, 112))


def stage(
    entities: Sequence[Entity], place: Place, light: Light, horizon: int, luck: random.Random, with_region: bool
) -> Frame:
    """A frame with the entities at random positions. `horizon` is in pixels; `with_region` shows the place's region too."""
    order = list(entities)
    luck.shuffle(order)
    sizes = [_size(entity, luck) for entity in order]
    free = (WIDTH - sum(width for width, _ in sizes)) // GRID
    if free < 0:
        sizes = [(28, 63) if isinstance(entity, Look) else _smallest(entity) for entity in order]
        free = (WIDTH - sum(width for width, _ in sizes)) // GRID
    # `free` grid columns are distributed at random before, between and after the figures
    cuts = sorted(luck.randint(0, free) for _ in order)
    placed, used = [], 0
    for entity, (width, height), cut in zip(order, sizes, cuts, strict=True):
        left, foot = used + cut * GRID, _foot(entity, height, horizon, luck)
        pose = luck.choice(_POSES) if isinstance(entity, Look) else "stand"
        placed.append(PlacedEntity(entity, Box(left, foot - height, left + width, foot), pose))  # type: ignore[arg-type]
        used += width
    if with_region and place.region:
        top = horizon - _REGION_HEIGHT[place.region]
        placed.append(PlacedEntity(Region(place.region), Box(0, top, WIDTH, horizon)))
    return Frame(place, light, horizon, luck.getrandbits(32), tuple(placed))


def _smallest(entity: Entity) -> tuple[int, int]:
    name = entity.shape if isinstance(entity, Thing) else entity.building if isinstance(entity, Landmark) else ""
    return _SIZES[name][0]


def resized(frame: Frame, size: tuple[int, int]) -> Frame:
    """The same frame at another size in pixels, with its boxes."""
    across, down = size[0] / frame.size[0], size[1] / frame.size[1]

    def scaled(box: Box) -> Box:
        return Box(round(box.x1 * across), round(box.y1 * down), round(box.x2 * across), round(box.y2 * down))

    placed = tuple(replace(one, box=scaled(one.box)) for one in frame.placed)
    return replace(frame, size=size, horizon=round(frame.horizon * down), placed=placed)


def in_reading_order(placed: Sequence[PlacedEntity]) -> list[PlacedEntity]:
    """From left to right, regions last: the order of tables and of the base model's lists."""
    return sorted(placed, key=lambda one: (isinstance(one.entity, Region), one.box))


def fits(box: Box) -> bool:
    """Whether a box lies in the frame."""
    return 0 <= box.x1 < box.x2 <= WIDTH and 0 <= box.y1 < box.y2 <= HEIGHT
