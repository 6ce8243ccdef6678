"""Matching predicted boxes with reference boxes: the matching that grounding, identity and references share.

Boxes are only compared within an image. All boxes of a story go into one array, so that a story takes a handful of numpy
calls. Most boxes have a single candidate; only groups with conflicts are solved by scipy.
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
"""The IoU at or above which two boxes match."""
_NOWHERE = Box(0, 0, 0, 0)
"""Stands for an unusable box; overlaps nothing."""


@dataclass(frozen=True, slots=True)
class EntityBox:
    """A row of an image's tables: an entity and its box in pixels. An unusable box is `_NOWHERE`."""

    id: str
    kind: Kind
    image: int
    box: Box


@dataclass(frozen=True, slots=True)
class Pair:
    """Two boxes of one image with `iou` >= THRESHOLD, as indices into the reference and predicted lists."""

    reference: int
    predicted: int
    iou: float


def entity_boxes(analysis: Analysis, sizes: Sequence[tuple[int, int]], drop_unusable: bool = False) -> list[EntityBox]:
    """Every table row in text order, with its box clipped to its frame; `sizes` are (width, height) in pixels.

    A box is unusable if it cannot be parsed, is inverted, or lies outside its frame or in an image that does not exist.
    In a prediction it is kept and matches nothing, which costs precision. In a reference nothing could match it, so
    `drop_unusable` omits it.
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
    """All pairs of boxes in the same image with an IoU of at least THRESHOLD, whatever their kind."""
    if not reference or not predicted:
        return []
    iou = boxes.iou_matrix([row.box for row in reference], [row.box for row in predicted])
    images, others = np.array([row.image for row in reference]), np.array([row.image for row in predicted])
    iou[images[:, None] != others[None, :]] = 0.0
    rows, columns = np.nonzero(iou >= THRESHOLD)
    return [Pair(int(i), int(j), float(iou[i, j])) for i, j in zip(rows, columns, strict=True)]


def best(candidates: Sequence[Pair], preferred: Callable[[Pair], bool] | None = None) -> list[Pair]:
    """The one-to-one matching with the most pairs, then the most `preferred` pairs, then the highest sum of IoU.

    An optimal assignment (the Hungarian method, by scipy's `linear_sum_assignment`).
    """
    chosen: list[Pair] = []
    for group in _groups(candidates):
        if len(group) == 1:
            chosen += group
            continue
        size = (
            len(group) + 1.0
        )  # exceeds the sum of all IoUs and the number of preferred pairs, so that a pair outweighs both
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
    """The one-to-one mapping of first to second names that maximizes the sum of their agreements."""
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
    """The connected components of pairs that share a box: `[(0,0), (1,1), (1,2)]` gives two groups.

    Every box is visited once, so that an answer that repeats a row ten thousand times stays cheap.
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
