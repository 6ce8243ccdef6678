"""Grounding: are the boxes where the entities are, in the right image, as the right kind of thing?"""

from collections import Counter
from collections.abc import Sequence

from storyreason.format.kinds import KINDS
from storyreason.scoring.matching import EntityBox, Pair, best

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The IoU thresholds that COCO averages over: 0.50, 0.55, … 0.95 (Lin et al. 2014)."""


def count(
    reference: Sequence[EntityBox], predicted: Sequence[EntityBox], candidates: Sequence[Pair], frames: int
) -> dict[str, float]:
    """One story's counts: reference boxes, predicted boxes and matched pairs, in total and by kind.

    `matched` counts pairs at IoU 0.5; `matched_50_95` is the mean of that count over THRESHOLDS, each with its own
    optimal assignment; `iou` is the sum of the IoUs of the pairs matched at 0.5. Boxes only match boxes of their kind.
    Averaging precision, recall or F1 over thresholds equals averaging their numerators, because the denominators do not
    depend on the threshold.
    """
    of_kind = [pair for pair in candidates if reference[pair.reference].kind == predicted[pair.predicted].kind]
    matched = best(of_kind)
    counts: dict[str, float] = {}
    for kind in KINDS:
        pairs = [pair for pair in matched if reference[pair.reference].kind == kind]
        counts[f"grounding/{kind}/reference"] = sum(row.kind == kind for row in reference)
        counts[f"grounding/{kind}/predicted"] = sum(row.kind == kind for row in predicted)
        counts[f"grounding/{kind}/matched"] = len(pairs)
        counts[f"grounding/{kind}/iou"] = sum(pair.iou for pair in pairs)
    at_any = Counter(reference[pair.reference].kind for pair in matched)
    for threshold in THRESHOLDS[1:]:
        left = [pair for pair in of_kind if pair.iou >= threshold]
        # If no two pairs share a box at 0.5, none do above it: most stories need no second assignment.
        at_any.update(reference[pair.reference].kind for pair in (left if len(matched) == len(of_kind) else best(left)))
    for kind in KINDS:
        counts[f"grounding/{kind}/matched_50_95"] = at_any[kind] / len(THRESHOLDS)
    for name in ("reference", "predicted", "matched", "iou", "matched_50_95"):
        counts[f"grounding/{name}"] = sum(counts[f"grounding/{kind}/{name}"] for kind in KINDS)
    counts["grounding/frames"] = frames
    return counts
