"""Persistence: which entities appear in five images or more, in the answer and in the reference."""

from collections import defaultdict
from collections.abc import Iterable

from storyreason.format.analysis import Analysis
from storyreason.format.kinds import KINDS, Kind, kind_of, kinds_in
from storyreason.format.story import Mention, Story
from storyreason.format.tables import ENTITY_TABLES

LASTING = 5
"""The number of images from which an entity counts as lasting, as in the paper."""


def count(reference: Analysis, reference_story: Story, predicted: Analysis, predicted_story: Story) -> dict[str, float]:
    """One story's counts: entities by kind, and how many of them appear in LASTING images or more.

    `reference` and `reference_story` are the reference's analysis and story, `predicted` and `predicted_story` the answer's.
    """
    sides = {
        "analysis": _rows(predicted),
        "story": _mentions(predicted_story),
        "reference_analysis": _rows(reference),
        "reference_story": _mentions(reference_story),
    }
    counts: dict[str, float] = {}
    for side, places in sides.items():
        images: dict[tuple[Kind, str], set[int]] = defaultdict(set)
        for kind, name, image in places:
            images[kind, name].add(image)
        for kind in KINDS:
            stays = [len(where) for (of, _), where in images.items() if of == kind]
            counts[f"persistence/{side}/{kind}/entities"] = len(stays)
            counts[f"persistence/{side}/{kind}/lasting"] = sum(stay >= LASTING for stay in stays)
        for what in ("entities", "lasting"):
            counts[f"persistence/{side}/{what}"] = sum(counts[f"persistence/{side}/{kind}/{what}"] for kind in KINDS)
    return counts


def _rows(analysis: Analysis) -> Iterable[tuple[Kind, str, int]]:
    for section in analysis.sections:
        for table in ENTITY_TABLES:
            for row in section.rows(table):
                yield kind_of(row.id) or kinds_in(table.name)[0], row.id, section.image


def _mentions(story: Story) -> Iterable[tuple[Kind, str, int]]:
    for passage in story.passages:
        for part in passage.parts:
            if isinstance(part, Mention):
                for name in part.ids:
                    yield kind_of(name) or "obj", name, passage.image
