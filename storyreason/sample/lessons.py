"""What the tiny base model learns from: single frames and questions about them, in Qwen's JSON style and plain prose.

No tables, no IDs, no tags, no stories: several frames in one lesson have nothing to do with each other, and each
question is about one of them.
"""

import json
import random
from dataclasses import dataclass

from storyreason.format.boxes import Box
from storyreason.sample.drawing import Frame, PlacedEntity
from storyreason.sample.staging import in_reading_order, stage
from storyreason.sample.world import (
    LANDMARKS,
    Entity,
    Landmark,
    Look,
    Part,
    Region,
    Thing,
    backgrounds,
    looks,
    things,
)

LOCATE = (
    "Locate every person, object, landmark and background in {where} and output JSON.",
    "Detect everything in {where}. Output JSON.",
)
FIND = ("Where is {what} in {where}? Output JSON.",)
DESCRIBE = ("Describe {where}.", "What can be seen in {where}?")
_VERBS = {"stand": ("stood", "waited", "paused"), "wave": ("waved", "beckoned"), "walk": ("walked", "strolled")}


@dataclass(frozen=True, slots=True)
class Lesson:
    """Frames shown together, and turns of question and answer about them."""

    frames: tuple[Frame, ...]
    turns: tuple[tuple[str, str], ...]


def a_frame(part: Part, luck: random.Random, figures: int = 4) -> Frame:
    """A random frame of the world: one to `figures` figures in a place of the split."""
    place, light = luck.choice(backgrounds(part))
    count = luck.randint(1, figures)
    entities: list[Entity] = []
    for kind in luck.choices(("person", "thing", "landmark"), (5, 3, 1), k=count):
        if kind == "landmark" and not any(isinstance(entity, Landmark) for entity in entities):
            entities.append(Landmark(luck.choice(LANDMARKS)))
        else:
            pool: list[Entity] = [*looks(part)] if kind == "person" else [*things()]
            entities.append(luck.choice([entity for entity in pool if entity not in entities]))
    return stage(entities, place, light, luck.choice((49, 56)), luck, luck.random() < 0.6)


def a_lesson(count: int, luck: random.Random, part: Part = "train", figures: int = 4) -> Lesson:
    """`count` unrelated frames, and one question about each, in random order."""
    frames = tuple(a_frame(part, luck, figures) for _ in range(count))
    order = list(range(count))
    luck.shuffle(order)
    return Lesson(frames, tuple(_turn(frames[index], _where(index, count), luck) for index in order))


def _where(index: int, count: int) -> str:
    return "the image" if count == 1 else f"image {index + 1}"


def locate(frame: Frame, where: str) -> tuple[str, str]:
    """The question for all boxes of a frame, and its answer."""
    return LOCATE[0].format(where=where), boxes_as_json(in_reading_order(frame.placed))


def _turn(frame: Frame, where: str, luck: random.Random) -> tuple[str, str]:
    kind = luck.choices(("locate", "find", "describe"), (5, 3, 2))[0]
    if kind == "locate":
        return luck.choice(LOCATE).format(where=where), boxes_as_json(in_reading_order(frame.placed))
    if kind == "find":
        placed = luck.choice(frame.placed)
        alike = [one for one in in_reading_order(frame.placed) if str(one.entity) == str(placed.entity)]
        return luck.choice(FIND).format(what=placed.entity, where=where), boxes_as_json(alike)
    return luck.choice(DESCRIBE).format(where=where), caption(frame, luck)


def boxes_as_json(placed: list[PlacedEntity]) -> str:
    """`[{"bbox_2d": [0,42,28,105], "label": "a man in a blue coat with grey hair"}]`"""
    items = [f'{{"bbox_2d": [{one.box}], "label": {json.dumps(str(one.entity))}}}' for one in placed]
    return f"[{', '.join(items)}]"


def read_boxes(answer: str) -> list[tuple[Box, str]]:
    """The boxes and labels of an answer in JSON; empty if it is not such JSON."""
    try:
        items = json.loads(answer)
        return [(Box(*map(int, item["bbox_2d"])), str(item["label"])) for item in items]
    except (ValueError, TypeError, KeyError):
        return []


def caption(frame: Frame, luck: random.Random) -> str:
    """`In the evening, a woman in a red coat waved in the park. The red kite danced above her. ...`"""
    rows = in_reading_order(frame.placed)
    people = [row for row in rows if isinstance(row.entity, Look)]
    who = " and ".join(f"{row.entity} {luck.choice(_VERBS[row.pose])}" for row in people) or "nobody was there"
    sentences = [f"{frame.light.phrase.capitalize()}, {who} {frame.place.phrase}."]
    for row in rows:
        noun = str(row.entity).partition(" ")[2]
        if isinstance(row.entity, Thing):
            where = "above" if row.entity.shape == "kite" else luck.choice(("near", "beside"))
            near = f" {where} {_them(row, people)}" if people else ""
            sentences.append(
                f"The {noun} {'flew' if row.entity.shape == 'kite' else luck.choice(('lay', 'stood'))}{near}."
            )
        elif isinstance(row.entity, Region | Landmark):
            sentences.append(f"The {noun} {'lay' if isinstance(row.entity, Region) else 'rose'} in the distance.")
    return " ".join(sentences)


def _them(row: PlacedEntity, people: list[PlacedEntity]) -> str:
    nearest = min(people, key=lambda one: abs(one.box.x1 + one.box.x2 - row.box.x1 - row.box.x2))
    assert isinstance(nearest.entity, Look), nearest
    return "her" if nearest.entity.sex == "woman" else "him"
