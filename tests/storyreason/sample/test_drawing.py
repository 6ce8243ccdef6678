"""A figure fills its box to the last pixel, whoever and wherever it is."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from storyreason.format.boxes import Box
from storyreason.sample.drawing import Frame, PlacedEntity, draw, encode
from storyreason.sample.staging import resized, stage
from storyreason.sample.world import (
    HATS,
    HEIGHT,
    LANDMARKS,
    LIGHTS,
    PLACES,
    SEXES,
    WIDTH,
    Entity,
    Landmark,
    Look,
    Pose,
    Region,
    backgrounds,
    looks,
    things,
)

EMPTY = Frame(PLACES[3], LIGHTS[1], 56, 1, ())
FIGURES: list[tuple[Entity, Pose]] = [
    *((Look(sex, "purple", "black", hat), pose) for sex in SEXES for hat in HATS for pose in ("stand", "wave", "walk")),
    *((thing, "stand") for thing in things()),
    *((Landmark(building), "stand") for building in LANDMARKS),
]


def _changed(one: Frame, other: Frame) -> Box:
    """The box around the pixels in which two frames differ."""
    difference = np.any(np.asarray(draw(one)) != np.asarray(draw(other)), axis=2)
    rows, columns = np.flatnonzero(difference.any(axis=1)), np.flatnonzero(difference.any(axis=0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


@pytest.mark.parametrize(("entity", "pose"), FIGURES, ids=[f"{entity}, {pose}" for entity, pose in FIGURES])
def test_a_figure_touches_all_four_sides_of_its_box(entity: Entity, pose: Pose) -> None:
    for seed in range(4):
        drawn = stage([entity], PLACES[3], LIGHTS[1], 56, random.Random(seed), with_region=False).placed[0]

        changed = _changed(EMPTY, replace(EMPTY, placed=(PlacedEntity(entity, drawn.box, pose),)))

        assert changed == drawn.box


@pytest.mark.parametrize("size", [(140, 84), (252, 140), (308, 168)])
def test_a_resized_figure_touches_all_four_sides_of_its_box(size: tuple[int, int]) -> None:
    empty = resized(EMPTY, size)
    for seed, (entity, pose) in enumerate(FIGURES):
        placed = stage([entity], PLACES[3], LIGHTS[1], 56, random.Random(seed), with_region=False).placed[0]
        frame = resized(replace(EMPTY, placed=(replace(placed, pose=pose),)), size)
        assert draw(frame).size == size
        assert _changed(empty, frame) == frame.placed[0].box


@pytest.mark.parametrize("place", [place for place in PLACES if place.region], ids=lambda place: place.region)
def test_a_region_fills_its_box_from_edge_to_edge(place: object) -> None:
    empty = replace(EMPTY, place=place)  # type: ignore[arg-type]
    drawn = stage([], empty.place, empty.light, 56, random.Random(1), with_region=True).placed[0]
    assert isinstance(drawn.entity, Region)

    changed = _changed(empty, replace(empty, placed=(drawn,)))

    assert (changed.x1, changed.x2) == (0, WIDTH)
    assert changed.y1 == drawn.box.y1
    assert changed.y2 == drawn.box.y2


def test_figures_stand_side_by_side_inside_of_the_frame() -> None:
    luck = random.Random(3)
    for _ in range(500):
        people = luck.sample(looks("train"), luck.randint(0, 3))
        figures: list[Entity] = [*people, *luck.sample(things(), 1), Landmark(luck.choice(LANDMARKS))]
        place, light = luck.choice(backgrounds("train"))

        placed = stage(figures[:4], place, light, 56, luck, with_region=True).placed

        boxes = sorted(one.box for one in placed if not isinstance(one.entity, Region))
        assert all(0 <= box.x1 < box.x2 <= WIDTH and 0 <= box.y1 < box.y2 <= HEIGHT for box in boxes)
        assert all(left.x2 <= right.x1 for left, right in pairwise(boxes))


def test_the_same_frame_is_the_same_picture() -> None:
    frame = stage(looks("test")[:2], PLACES[0], LIGHTS[3], 49, random.Random(5), with_region=True)
    assert encode(draw(frame)) == encode(draw(frame))
    assert draw(frame).size == (WIDTH, HEIGHT)
