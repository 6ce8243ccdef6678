"""What the tiny base model learns from: frames and questions about them, in Qwen's JSON style and plain prose.

No analysis, no ID or tag of the format, no stories: several frames in one lesson have nothing to do with each other. A
question is about one of them, about each in turn, or about an answer that was given before. Lessons without frames:
`recall.py`.
"""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from storyreason.format.boxes import Box
from storyreason.sample.drawing import Frame, PlacedEntity
from storyreason.sample.staging import in_reading_order, resized, stage
from storyreason.sample.world import (
    HEIGHT,
    LANDMARKS,
    WIDTH,
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
ROUND = (
    "Locate everything in each picture in turn. Output JSON.",
    "Detect everything, picture by picture. Output JSON.",
)
TELL = ("Describe each picture in turn.", "What can be seen in each picture? One after the other.")
BOTH = (
    "Describe each picture in turn, with boxes in JSON.",
    "Picture by picture: what can be seen, and where? Use JSON.",
)
LIST = (
    "List who and what each picture shows, kind by kind, with boxes.",
    "Picture by picture: people, things, and what is far away, with boxes.",
)
KINDS = (("person", "thing", "far"), ("people", "objects", "distance"), ("who", "what", "behind"))
"""What the three kinds of rows are called."""
NAMES = ("Name again what each picture shows.", "List the labels of each picture.")
HEADS = ("Picture {}: ", "Image {}: ", "No. {}: ", "{}. ", "({}) ", "{}: ")
"""How the part of an answer that is about one of several pictures begins."""
HEAD = re.compile(r"^(?:Picture |Image |No\. |\()?([0-9])[:.)](?: |$)", re.MULTILINE)
"""Any of them, and which picture it is about."""
MARKDOWN = " | "
"""What is between the cells of a row."""
AGAIN = ("Repeat your answer about {where}.",)
COUNT = ("How many pictures are there?", "Count the pictures.")
_VERBS = {"stand": ("stood", "waited", "paused"), "wave": ("waved", "beckoned"), "walk": ("walked", "strolled")}


CELL = 28
"""Pixels. The processor keeps sizes that are multiples of it, so that boxes are in pixels of the given picture."""


OTHER_SIZES = 0.5
"""Share of the lessons whose frames have another size than the films', once boxes are found at that one. With 0.3 of the long
lessons alone, box F1 at other sizes was 0.52 when it was 0.99 at theirs."""


class Turn(NamedTuple):
    """A question and its answer. `given` is how the answer begins; it is read, but not learnt."""

    question: str
    answer: str
    given: str = ""


@dataclass(frozen=True, slots=True)
class Lesson:
    """Frames shown together, if any, and turns of question and answer."""

    frames: tuple[Frame, ...]
    turns: tuple[Turn, ...]


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


def a_lesson(
    count: int, luck: random.Random, part: Part = "train", figures: int = 4, other_sizes: bool = False
) -> Lesson:
    """`count` unrelated frames, with `other_sizes` sometimes of another size, and one question about each, in random order."""
    frames = tuple(a_frame(part, luck, figures) for _ in range(count))
    if other_sizes and luck.random() < OTHER_SIZES:
        size = a_size(luck)
        frames = tuple(resized(frame, size) for frame in frames)
    order = list(range(count))
    luck.shuffle(order)
    return Lesson(frames, tuple(_turn(frames[index], _where(index, count), luck) for index in order))


def a_long_lesson(count: int, luck: random.Random, part: Part = "train", listed: bool = False) -> Lesson:
    """`count` unrelated frames of one random size, and questions that take looking back.

    Either one question about all frames and then one about their labels (if `listed`, half of these are lists instead); or how
    many they are, a question about each, and one that asks for an answer of before.
    """
    size = a_size(luck) if luck.random() < OTHER_SIZES else (WIDTH, HEIGHT)
    lesson = a_lesson(count, luck, part)
    frames = tuple(resized(frame, size) for frame in lesson.frames)
    if luck.random() < 0.5:
        return Lesson(frames, a_list(frames, luck) if listed and luck.random() < 0.5 else a_round(frames, luck))
    order = luck.sample(range(count), count)
    turns = [_turn(frames[index], _where(index, count), luck) for index in order]
    again = luck.randrange(count)
    repeated = Turn(luck.choice(AGAIN).format(where=_where(order[again], count)), turns[again].answer)
    return Lesson(frames, (Turn(luck.choice(COUNT), str(count)), *turns, repeated))


def a_round(frames: Sequence[Frame], luck: random.Random) -> tuple[Turn, ...]:
    """Each picture in turn, in one answer: its boxes, a caption, or both; and then the labels once more."""
    rows = [in_reading_order(frame.placed) for frame in frames]
    boxes = [boxes_as_json(placed) for placed in rows]
    told = [caption(frame, luck) for frame in frames]
    asked, parts = luck.choice(
        ((ROUND, boxes), (TELL, told), (BOTH, [f"{one}\n{two}" for one, two in zip(told, boxes, strict=True)]))
    )
    head, gap = luck.choice(HEADS), luck.choice(("\n", "\n\n"))
    labels = [f"{', '.join(str(one.entity) for one in placed)}." for placed in rows]
    return (
        Turn(luck.choice(asked), _one_by_one(head, parts, gap)),
        Turn(luck.choice(NAMES), _one_by_one(head, labels, "\n")),
    )


def a_list(frames: Sequence[Frame], luck: random.Random) -> tuple[Turn, ...]:
    """Each picture in turn, in one answer, in rows: people, then things, then what is far away; names first, boxes last.

    A model that was only taught boxes before labels, from left to right, was right about all of seven pictures (box F1 0.95),
    but tuned to write rows it gave a lighthouse's box the name of a bicycle in another picture.
    """
    kinds, grouped, link = luck.choice(KINDS), luck.random() < 0.5, luck.choice(("; ", " / ", " - ", MARKDOWN))
    columns = [luck.random() < 0.5 for _ in range(3)]
    parts = []
    for frame in frames:
        rows = in_reading_order(frame.placed)
        lines = []
        for number, kind in enumerate(kinds):
            here = [row for row in rows if _kind(row.entity) == number]
            lines += [kind] * (grouped and bool(here))
            for row in here:
                verbs = ("lay", "stood") if number else _VERBS[row.pose]
                said = (luck.choice(verbs), frame.place.phrase, frame.light.phrase)
                between = [text for text, has in zip(said, columns, strict=True) if has]
                lines.append(a_row(link, ([] if grouped else [kind]) + [str(row.entity), *between, str(row.box)]))
        parts.append("\n".join(lines))
    head = luck.choice(HEADS).rstrip() + "\n"
    return (Turn(luck.choice(LIST), _one_by_one(head, parts, luck.choice(("\n", "\n\n")))),)


def a_row(link: str, cells: Sequence[str]) -> str:
    """Cells with a link between them; those of Markdown have it around them, too: `| K3 | Tom |`."""
    text = link.join(cells)
    return f"{MARKDOWN}{text}{MARKDOWN}".strip() if link == MARKDOWN else text


def _kind(entity: Entity) -> int:
    """The index of an entity's kind in `KINDS`."""
    return 0 if isinstance(entity, Look) else 1 if isinstance(entity, Thing) else 2


def _one_by_one(head: str, parts: Sequence[str], gap: str) -> str:
    return gap.join(head.format(number) + part for number, part in enumerate(parts, 1))


def a_size(luck: random.Random) -> tuple[int, int]:
    """Width and height in pixels, each 0.75 to 1.5 times that of the films' frames."""
    factor = luck.uniform(0.75, 1.5)
    columns, rows = (round(factor * side / CELL) for side in (WIDTH, HEIGHT))
    return CELL * columns, CELL * rows


def _where(index: int, count: int) -> str:
    return "the image" if count == 1 else f"image {index + 1}"


def locate(frame: Frame, where: str) -> Turn:
    """The question for all boxes of a frame, and its answer."""
    return Turn(LOCATE[0].format(where=where), boxes_as_json(in_reading_order(frame.placed)))


def _turn(frame: Frame, where: str, luck: random.Random) -> Turn:
    kind = luck.choices(("locate", "find", "describe"), (5, 3, 2))[0]
    if kind == "locate":
        return Turn(luck.choice(LOCATE).format(where=where), boxes_as_json(in_reading_order(frame.placed)))
    if kind == "find":
        placed = luck.choice(frame.placed)
        alike = [one for one in in_reading_order(frame.placed) if str(one.entity) == str(placed.entity)]
        return Turn(luck.choice(FIND).format(what=placed.entity, where=where), boxes_as_json(alike))
    return Turn(luck.choice(DESCRIBE).format(where=where), caption(frame, luck))


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
