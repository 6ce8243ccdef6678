"""A person's corrections of entities: detections that are the same, and detections that are not.

A correction names detections by film, frame and box, not by ID: it also holds after a new detector or embedding model. One
JSON object on each line of a file:

    {"merge": [{"film": "film 1", "frame": 12, "box": [10, 20, 60, 140]}, {"film": "film 1", "frame": 31, "box": [...]}]}
    {"split": [{"film": "film 1", "frame": 12, "box": [10, 20, 60, 140]}, {"film": "film 1", "frame": 40, "box": [...]}]}

`merge` makes the entities of all its detections one; `split` puts each of its detections into another entity. A place also
names its `scene` where frames are counted anew in each. Names are compared as text: `1` is `"1"`.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from storyreason.errors import DataError
from storyreason.format.boxes import iou_matrix
from storyreason.perception.film import Film, Name, kinds

OVERLAP = 0.5
"""The IoU at or above which a detection is the one that a correction names."""


@dataclass(frozen=True)
class Linked:
    """Corrections as pairs of a film's detections, by their places in it."""

    together: Sequence[tuple[int, int]] = ()
    apart: Sequence[tuple[int, int]] = ()
    left_out: Sequence[str] = ()
    """What of the corrections is left out, and why, as sentences."""


class Place(BaseModel):
    """Where a detection is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    film: Name
    frame: Name
    box: Annotated[list[float], Field(min_length=4, max_length=4)]
    scene: Name | None = None

    def __str__(self) -> str:
        return f"frame {self.frame!r} of film {self.film!r}, box {','.join(f'{corner:g}' for corner in self.box)}"


class Correction(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    merge: Annotated[list[Place], Field(min_length=2)] | None = None
    split: Annotated[list[Place], Field(min_length=2)] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "Correction":
        if (self.merge is None) == (self.split is None):
            raise ValueError("either merge or split is required")
        if len({str(place.film) for place in self.places}) > 1:
            raise ValueError("the places of a correction are in one film")
        return self

    @property
    def places(self) -> list[Place]:
        return self.merge or self.split or []

    @property
    def film(self) -> Name:
        """The film that it is of."""
        return self.places[0].film


def load(path: Path) -> list[Correction]:
    """The corrections in a file. Raises DataError that names file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): name a file of corrections, one JSON object a line."
        ) from error
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found.append(Correction.model_validate_json(line))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise DataError(
                    f"{path}, line {number}, is no correction ({where + ': ' if where else ''}{first['msg']}); wanted "
                    f"{json.dumps({'merge': [{'film': 'film 1', 'frame': 12, 'box': [10, 20, 60, 140]}, '...']})}."
                ) from error
    return found


def linked(film: Film, corrections: Sequence[Correction]) -> Linked:
    """The corrections of a film. Raises DataError for those that contradict one another, or would link within a frame."""
    together: list[tuple[int, int]] = []
    apart: list[tuple[int, int]] = []
    left_out = []
    for correction in corrections:
        if str(correction.film) != str(film.name):
            continue
        found = []
        for place in correction.places:
            at = _find(film, place)
            if at is None:
                left_out.append(f"No detection is at {place}: this place of a correction is left out.")
            elif at not in found:
                found.append(at)
            elif correction.split:
                left_out.append(f"One detection is at two places of a split, {place}: this place is left out.")
        if correction.merge:
            together += itertools.pairwise(found)
        else:
            apart += itertools.combinations(found, 2)
    _refuse_contradictions(film, together, apart)
    return Linked(tuple(together), tuple(apart), tuple(left_out))


def _find(film: Film, place: Place) -> int | None:
    """The detection with the highest IoU at a place, the first of several; None if none overlaps enough."""
    rows = [
        at
        for at, frame in enumerate(film.frame_names)
        if str(frame) == str(place.frame) and (place.scene is None or str(place.scene) == str(film.scene_names[at]))
    ]
    if len({film.frames[at] for at in rows}) > 1:
        raise DataError(f"A correction names {place}, which is in more than one scene: add its `scene`.")
    if not rows:
        return None
    (overlaps,) = iou_matrix(np.array([place.box]), film.boxes[rows])
    best = int(np.argmax(overlaps))
    return rows[best] if overlaps[best] >= OVERLAP else None


def _refuse_contradictions(film: Film, together: list[tuple[int, int]], apart: list[tuple[int, int]]) -> None:
    kind = kinds(film.labels)
    for group in _components(together):
        frames: dict[int, int] = {}
        for at in group:
            if kind[at] != kind[group[0]]:
                raise DataError(
                    f"Corrections of film {film.name!r} merge {film.ids[group[0]]!r} ({film.labels[group[0]]}) with "
                    f"{film.ids[at]!r} ({film.labels[at]}): an entity has one kind."
                )
            other = frames.setdefault(int(film.frames[at]), at)
            if other != at:
                raise DataError(
                    f"Corrections of film {film.name!r} merge {film.ids[other]!r} with {film.ids[at]!r}, which are both in "
                    f"frame {film.frame_names[at]!r}: two detections of one frame are two entities. Take one of them back."
                )
        for one, other in apart:
            if one in group and other in group:
                raise DataError(
                    f"Corrections of film {film.name!r} both merge and split {film.ids[one]!r} and {film.ids[other]!r}: "
                    "take one of them back."
                )


def _components(pairs: list[tuple[int, int]]) -> Iterator[list[int]]:
    """The groups that pairs connect, each sorted."""
    groups: dict[int, set[int]] = {}
    for one, other in pairs:
        joined = groups.get(one, {one}) | groups.get(other, {other})
        for at in joined:
            groups[at] = joined
    seen: set[int] = set()
    for at in sorted(groups):
        if at not in seen:
            seen |= groups[at]
            yield sorted(groups[at])
