"""The entities of an answer, where each is seen and mentioned, and which entities of two answers are the same."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from storyreason.format.analysis import Section
from storyreason.format.answer import Answer
from storyreason.format.kinds import kind_of, sort_key
from storyreason.format.story import Mention, Passage
from storyreason.format.tables import Character, Object
from storyreason.format.words import is_name

Json = dict[str, Any]


def entities(sections: Sequence[Section], passages: Sequence[Passage], scenes: Sequence[Json]) -> list[Json]:
    """All entities in tables or mentions, sorted by kind and number. `scenes` hold the clipped boxes of each image.

    A person has one name here: the first in the tables, whatever later images say.
    """
    people = {row.id for section in sections for row in section.characters}
    first: dict[str, Character | Object] = {}
    seen: dict[str, Counter[int]] = defaultdict(Counter)  # ID -> image -> mentions; 0 if only in the tables
    for section in sections:
        for row in section.entities:
            if row.id not in first or (_nameless(first[row.id]) and not _nameless(row)):
                first[row.id] = row
            seen[row.id][section.image] += 0
    for passage in passages:
        for part in passage.parts:
            for id_ in part.ids if isinstance(part, Mention) else ():
                seen[id_][passage.image] += 1
    boxes = {(box["id"], scene["image"]): box["box"] for scene in scenes for box in scene["boxes"]}
    return [
        {
            "id": id_,
            "kind": kind_of(id_) or ("char" if id_ in people else "obj"),
            "name": _name(first.get(id_)) or id_,
            "colour": colour,
            "twin": None,
            "known": id_ in first,
            "mentions": seen[id_].total(),
            "images": [
                {"image": image, "box": boxes.get((id_, image)), "mentions": mentions}
                for image, mentions in sorted(seen[id_].items())
            ],
        }
        for colour, id_ in enumerate(sorted(seen, key=sort_key))
    ]


def _nameless(row: Character | Object) -> bool:
    return not (isinstance(row, Character) and is_name(row.name))


def _name(row: Character | Object | None) -> str:
    """A short name for an entity: the name of a character, or the description without its article."""
    if row is None:
        return ""
    name = row.name if isinstance(row, Character) else ""
    return (name if name.strip(" -–") else re.sub(r"^(an?|the)\s+", "", row.description, flags=re.IGNORECASE)).strip()


def pair_up(
    predicted: Json, referenced: Json, prediction: Answer, reference: Answer, sizes: list[tuple[int, int]]
) -> None:
    """Links the entities of two answers that are in the same places (`twin`) and gives them the same colour.

    Pairs are those of the identity score: one to one, with as many boxes of IoU >= 0.5 in the same image as possible.
    """
    from storyreason.scoring.matching import assign_names, entity_boxes, pairs

    if prediction.analysis is None or reference.analysis is None:
        return
    there, here = entity_boxes(reference.analysis, sizes), entity_boxes(prediction.analysis, sizes)
    overlaps = {
        (there[p.reference].id, here[p.predicted].id, here[p.predicted].image): p.iou for p in pairs(there, here)
    }
    twins = assign_names(Counter((first, second) for first, second, _ in overlaps))
    mine: dict[Any, Json] = {entity["id"]: entity for entity in predicted["entities"]}
    free = len(referenced["entities"])
    for theirs in referenced["entities"]:
        twin = mine.get(twins.get(theirs["id"]))
        if twin is None:
            continue
        theirs["twin"], twin["twin"], twin["colour"] = twin["id"], theirs["id"], theirs["colour"]
        for seen in twin["images"]:
            seen["iou"] = overlaps.get((theirs["id"], twin["id"], seen["image"]))
    for entity in predicted["entities"]:
        if entity["twin"] is None:
            entity["colour"], free = free, free + 1
    for scene in predicted["scenes"]:
        for box in scene["boxes"]:
            ious = {seen["image"]: seen.get("iou") for seen in mine[box["id"]]["images"]}
            box["iou"] = ious[scene["image"]]
