"""Which predicted box is which reference box: the one matching that grounding, identity and references share.

Boxes are compared within their image only. All boxes of a story are laid into one array first, so that a story costs a
handful of numpy calls; most boxes have a single partner, and only real conflicts are given to scipy.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from storyreason.format import boxes
from storyreason.format.analysis import Analysis
from storyreason.format.boxes import Box
from storyreason.format.kinds import Kind, kind_of, kinds_in
from storyreason.format.tables import ENTITY_TABLES

THRESHOLD = 0.5
"""From this IoU on, two boxes are the same."""
_NOWHERE = Box(0, 0, 0, 0)
"""In place of an unusable box: overlaps nothing."""


@dataclass(frozen=True, slots=True)
class EntityBox:
    """One row of an image's tables: an entity, said to be somewhere. An unusable box is `_NOWHERE`."""

    id: str
    kind: Kind
    image: int
    box: Box


@dataclass(frozen=True, slots=True)
class Pair:
    """Two boxes of one image that overlap by `iou` >= THRESHOLD: their places in the two lists of `EntityBox`."""

    reference: int
    predicted: int
    iou: float


def entity_boxes(analysis: Analysis, sizes: Sequence[tuple[int, int]], drop_unusable: bool = False) -> list[EntityBox]:
    """Every row of the tables in the order of the text, boxes clipped to their frame; `sizes` are (width, height).

    A box that does not parse, is inverted, or lies outside its frame or in an image that the story does not have is
    unusable. In a prediction it stays and matches nothing: a claim without a place costs precision. In a reference
    nobody could match it: there `drop_unusable` leaves it out.
    """
    rows = []
    for section in analysis.sections:
        size = sizes[section.image - 1] if 1 <= section.image <= len(sizes) else None
        for table in ENTITY_TABLES:
            for row in section.rows(table):
                box = _usable(row.box, size)
                if box is not _NOWHERE or not drop_unusable:
                    rows.append(EntityBox(row.id, kind_of(row.id) or kinds_in(table.name)[0], section.image, box))
    return rows


def pairs(reference: Sequence[EntityBox], predicted: Sequence[EntityBox]) -> list[Pair]:
    """All pairs of boxes in the same image with an IoU of THRESHOLD or more, of whatever kind."""
    if not reference or not predicted:
        return []
    iou = boxes.iou_matrix([row.box for row in reference], [row.box for row in predicted])
    images, others = np.array([row.image for row in reference]), np.array([row.image for row in predicted])
    iou[images[:, None] != others[None, :]] = 0.0
    rows, columns = np.nonzero(iou >= THRESHOLD)
    return [Pair(int(i), int(j), float(iou[i, j])) for i, j in zip(rows, columns, strict=True)]


def best(candidates: Sequence[Pair], preferred: Callable[[Pair], bool] | None = None) -> list[Pair]:
    """The one-to-one choice with the most pairs; among those, with the most `preferred` ones; among those, with the
    highest sum of IoU (an optimal assignment, scipy's `linear_sum_assignment`)."""
    chosen: list[Pair] = []
    for group in _groups(candidates):
        if len(group) == 1:
            chosen += group
            continue
        size = len(group) + 1.0  # more than any group's IoUs together, or its preferred pairs: nothing outweighs a pair
        rows = {i: at for at, i in enumerate(dict.fromkeys(pair.reference for pair in group))}
        columns = {j: at for at, j in enumerate(dict.fromkeys(pair.predicted for pair in group))}
        worth = np.zeros((len(rows), len(columns)))
        at: dict[tuple[int, int], Pair] = {}
        for pair in group:
            cell = rows[pair.reference], columns[pair.predicted]
            at[cell] = pair
            worth[cell] = size * size + (size if preferred and preferred(pair) else 0.0) + pair.iou
        chosen += [at[cell] for cell in _assign(worth) if cell in at]
    return chosen


def assign_names(agreements: Counter[tuple[str, str]]) -> dict[str, str]:
    """The one-to-one map of first to second names that maximizes the sum of their agreements."""
    firsts = {name: at for at, name in enumerate(dict.fromkeys(first for first, _ in agreements))}
    seconds = {name: at for at, name in enumerate(dict.fromkeys(second for _, second in agreements))}
    worth = np.zeros((len(firsts), len(seconds)))
    for (first, second), count in agreements.items():
        worth[firsts[first], seconds[second]] = count
    names, others = list(firsts), list(seconds)
    return {names[i]: others[j] for i, j in _assign(worth) if worth[i, j] > 0}


def _assign(worth: np.ndarray) -> list[tuple[int, int]]:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(worth, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _groups(candidates: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs that share a box, directly or through others, together: `[(0,0), (1,1), (1,2)]` gives two groups.

    Every box is visited once: an answer that repeats one row ten thousand times costs no more than any other.
    """
    at_row: dict[int, list[Pair]] = defaultdict(list)
    at_column: dict[int, list[Pair]] = defaultdict(list)
    for pair in candidates:
        at_row[pair.reference].append(pair)
        at_column[pair.predicted].append(pair)
    groups: list[list[Pair]] = []
    seen_rows: set[int] = set()
    seen_columns: set[int] = set()
    for first in candidates:
        if first.reference in seen_rows:
            continue
        group: list[Pair] = []
        waiting = [first.reference]
        seen_rows.add(first.reference)
        while waiting:
            row = at_row[waiting.pop()]
            group += row
            for pair in row:
                if pair.predicted not in seen_columns:
                    seen_columns.add(pair.predicted)
                    new = {other.reference for other in at_column[pair.predicted]} - seen_rows
                    seen_rows |= new
                    waiting += new
        groups.append(group)
    return groups


def _usable(box: Box | None, size: tuple[int, int] | None) -> Box:
    if box is None or size is None:
        return _NOWHERE
    clipped = boxes.clip(box, *size)
    return clipped if clipped.x1 < clipped.x2 and clipped.y1 < clipped.y2 else _NOWHERE
