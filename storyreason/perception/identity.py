"""Which detections of a film show the same person or thing.

Groups of detections are merged, the most probable pair first: first within each scene, then over the film. Two detections
of one frame are never in one group. Nothing depends on the order of the rows, on chance, or on other films.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from storyreason.perception.corrections import Linked
from storyreason.perception.evidence import STAGES, Calibration, calibration
from storyreason.perception.film import Film, kinds
from storyreason.perception.merging import Merging

Method = Literal["calibrated", "published"]
"""How `storyreason identify` finds entities: as here, or by `published`."""


@dataclass(frozen=True)
class Entities:
    """Whom the detections of a film show."""

    names: Sequence[str]
    """`char1`, `obj1`, `lm1`, `bg1`: for each detection its entity, numbered by first appearance."""
    probabilities: np.ndarray
    """For each detection, the probability of the weakest merge that put it into its entity, float32 of shape [n].

    A merge counts for the smaller of the two groups. NaN: it rests on none, because the others joined it.
    """


def identify(film: Film, linked: Linked | None = None, using: Calibration | None = None) -> Entities:
    """The entities of a film. `linked` are a person's corrections, which always hold."""
    linked, using = linked or Linked(), using or calibration()
    held: list[tuple[int, int]] = []
    while True:
        merging = Merging(film, using, linked.apart, held)
        for stage in STAGES:
            merging.run(stage)
        # A correction says that two entities are one, not only two detections: their whole groups are joined. Where these
        # share a frame, the two detections are joined first instead, and the rest is divided between the others.
        refused = [pair for pair in linked.together if not merging.unite(*pair)]
        if not refused:
            return Entities(name(film, merging.roots()), merging.probabilities())
        held += refused


def name(film: Film, groups: np.ndarray) -> list[str]:
    """Names for groups of detections, numbered for each kind by first appearance. A group has its first detection's kind."""
    names: dict[int, str] = {}
    numbers: Counter[str] = Counter()
    found = []
    for group, kind in zip(groups.tolist(), kinds(film.labels), strict=True):
        if group not in names:
            numbers[kind] += 1
            names[group] = f"{kind}{numbers[kind]}"
        found.append(names[group])
    return found
