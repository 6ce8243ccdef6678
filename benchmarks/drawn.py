"""Films of the sample world, made harder, with colour histograms as looks: pictures whose entities are known.

Light differs by scene and tints everything, boxes are moved and cut, some people have a twin who differs in one thing, and
some come back in another coat. They say nothing about photographs.
"""

import random
from dataclasses import replace

import numpy as np

from storyreason.perception.film import Film
from storyreason.sample.drawing import Frame, draw
from storyreason.sample.staging import stage
from storyreason.sample.world import (  # fmt: skip
    COATS,
    HAIR,
    HEIGHT,
    LANDMARKS,
    WIDTH,
    Entity,
    Landmark,
    Look,
    backgrounds,
    looks,
    things,
)

PEOPLE, THINGS = 8, 6
"""How many a film has."""


def film(seed: int, scenes: int = 14, name: str = "drawn") -> tuple[Film, np.ndarray]:
    """A film of 3 to 7 frames a scene, and the number of the entity that each detection shows."""
    luck = random.Random(f"drawn film {seed}")
    people, props = _cast(luck), luck.sample(things(), THINGS)
    landmarks = [Landmark(building) for building in luck.sample(LANDMARKS, 2)]
    rows = []
    frames = 0
    for scene in range(scenes):
        place, light = luck.choice(backgrounds("train") + backgrounds("test"))
        horizon, tint = luck.choice((56, 63, 70)), np.array([luck.uniform(0.65, 1.15) for _ in range(3)])
        # Each entity of the scene, as it looks there, with its number.
        present: list[tuple[int, Entity]] = [
            (number, _dressed(people[number], luck)) for number in luck.sample(range(PEOPLE), luck.randint(1, 3))
        ]
        present += [(PEOPLE + number, props[number]) for number in luck.sample(range(THINGS), luck.randint(0, 2))]
        present += [
            (PEOPLE + THINGS + number, landmarks[number]) for number in luck.sample(range(2), luck.randint(0, 1))
        ]
        for _ in range(luck.randint(3, 7)):
            seen = [one for one in present if luck.random() < 0.8][:4]  # more may not fit side by side
            if seen:
                frame = stage([entity for _, entity in seen], place, light, horizon, luck, with_region=False)
                rows += _detections(frame, seen, scene, frames, tint, luck)
                frames += 1
    return _film(name, rows), np.array([row[0] for row in rows])


def _cast(luck: random.Random) -> list[Look]:
    """People, every fourth of them a twin of the one before: with other hair, or another coat."""
    people = luck.sample(looks("train") + looks("test"), PEOPLE)
    for number in range(3, PEOPLE, 4):
        other = people[number - 1]
        change = luck.choice(("hair", "coat"))
        pool = [one for one in (HAIR if change == "hair" else COATS) if one != getattr(other, change)]
        new = luck.choice(pool)
        people[number] = replace(other, hair=new) if change == "hair" else replace(other, coat=new)
    return people


def _dressed(look: Look, luck: random.Random) -> Look:
    """The person in a scene: in one of ten, with another coat. Always a new object, by which a figure is found again."""
    return replace(look, coat=luck.choice(COATS) if luck.random() < 0.1 else look.coat)


Row = tuple[int, int, int, str, tuple[float, float, float, float], np.ndarray]
"""Entity, scene, frame, label, box and look."""


def _detections(
    frame: Frame, seen: list[tuple[int, Entity]], scene: int, number: int, tint: np.ndarray, luck: random.Random
) -> list[Row]:
    pixels = (np.asarray(draw(frame), np.float64) * tint).clip(0, 255).astype(np.uint8)
    found = []
    for placed in frame.placed:
        entity = next(one for one, figure in seen if figure is placed.entity)
        label = "person" if isinstance(placed.entity, Look) else type(placed.entity).__name__.lower()
        label = getattr(placed.entity, "shape", label)
        width, height = placed.box.x2 - placed.box.x1, placed.box.y2 - placed.box.y1
        # A detector's box: moved by up to a tenth of its size, and one in five without its lower third.
        low = 0.67 if luck.random() < 0.2 else 1.0
        x1, x2 = (corner + width * luck.uniform(-0.1, 0.1) for corner in (placed.box.x1, placed.box.x2))
        y1, y2 = (
            placed.box.y1 + height * luck.uniform(-0.1, 0.1),
            placed.box.y1 + height * (low + luck.uniform(-0.1, 0)),
        )
        box = (max(0.0, x1), max(0.0, y1), min(float(WIDTH), x2), min(float(HEIGHT), y2))
        found.append((entity, scene, number, label, box, _look(pixels, box)))
    return found


def _look(pixels: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The square roots of the shares of 64 colours in the upper, the middle and the lower part of a box, of shape [192]."""
    x1, y1, x2, y2 = (round(corner) for corner in box)
    parts = np.array_split(pixels[y1:y2, x1:x2], 3)
    counts = [np.bincount((part.reshape(-1, 3) // 64) @ (16, 4, 1), minlength=64) for part in parts]
    found: np.ndarray = np.sqrt(np.concatenate(counts) / sum(part.size / 3 for part in parts))
    return found


def _film(name: str, rows: list[Row]) -> Film:
    count, frames = len(rows), np.array([row[2] for row in rows])
    made = np.array([row[5] for row in rows], np.float32)
    return Film(
        name,
        list(range(count)),
        [row[3] for row in rows],
        [row[1] for row in rows],
        frames.tolist(),
        np.array([row[1] for row in rows]),
        frames,
        np.array([row[4] for row in rows]),
        np.zeros((count, 0), np.float32),
        np.zeros(count, np.float32),
        made / np.linalg.norm(made, axis=1, keepdims=True),
    )
