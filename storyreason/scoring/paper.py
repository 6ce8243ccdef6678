"""The paper's protocol for boxes (arXiv 2505.10292), value for value, for comparison with published figures.

It rewards silence (an answer without boxes has a precision of 1) and ignores identity and the image that a box is in, so
decide by the strict protocol instead. All scores are means over stories of a score per story.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storyreason.format import boxes
from storyreason.format.analysis import Analysis
from storyreason.format.boxes import Box

_THRESHOLD = 0.5
_LEVELS = np.linspace(0, 1, 11)


@dataclass(frozen=True, slots=True)
class Claim:
    """A box of an image, and whether it is a person's."""

    image: int
    box: Box
    person: bool


def count(truths: Sequence[Claim], claims: Sequence[Claim]) -> dict[str, float]:
    """One story's scores, from the `pool` of the reference and that of the answer."""
    iou = boxes.iou_matrix([one.box for one in truths], [one.box for one in claims])
    same = np.array([a.person for a in truths], bool)[:, None] == np.array([b.person for b in claims], bool)[None, :]
    matched = greedy(np.where(same, iou, 0.0))
    scores: dict[str, float] = {}
    for label, people in (("", (True, False)), ("Char. ", (True,)), ("Obj. ", (False,))):
        right = sum(claims[j].person in people for _, j in matched)
        predictions = sum(one.person in people for one in claims)
        references = sum(one.person in people for one in truths)
        precision = right / predictions if predictions else 1.0
        recall = right / references if references else (0.0 if predictions else 1.0)
        both = precision + recall
        scores[f"paper/{label}Precision"] = precision
        scores[f"paper/{label}Recall"] = recall
        scores[f"paper/{label}F1"] = 2 * precision * recall / both if both else 0.0
    hits = {j for _, j in matched}
    scores["paper/mAP"] = _average_precision([j in hits for j in range(len(claims))], len(truths))
    return scores


def pool(analysis: Analysis | None, frames: int) -> list[Claim]:
    """The boxes of all images in table order: none if the answer cannot be read (None), or if a section's image does not
    exist."""
    sections = analysis.sections if analysis else ()
    if any(not 1 <= section.image <= frames for section in sections):
        return []
    claims = []
    for section in sections:
        claims += [Claim(section.image, row.box, True) for row in section.characters if row.box]
        claims += [
            Claim(section.image, row.box, row.description.lower().startswith("person"))
            for row in section.objects
            if row.box
        ]
    return claims


def greedy(iou: np.ndarray) -> list[tuple[int, int]]:
    """Greedy one-to-one matching by descending IoU, down to 0.5; `iou` is [reference, predicted]."""
    rows, columns = np.nonzero(iou >= _THRESHOLD)
    order = np.argsort(-iou[rows, columns], kind="stable")
    taken_rows: set[int] = set()
    taken_columns: set[int] = set()
    chosen = []
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if i not in taken_rows and j not in taken_columns:
            taken_rows.add(i)
            taken_columns.add(j)
            chosen.append((i, j))
    return chosen


def _average_precision(hits: Sequence[bool], truths: int) -> float:
    """11-point interpolated average precision (Everingham et al. 2010, section 4.2) of predictions in table order."""
    if not truths:
        return 0.0 if hits else 1.0
    right = np.cumsum(hits)
    recalls, precisions = right / truths, right / np.arange(1, len(hits) + 1)
    return float(sum(precisions[recalls >= level].max(initial=0.0) for level in _LEVELS) / len(_LEVELS))
