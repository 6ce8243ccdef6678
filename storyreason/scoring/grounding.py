"""Grounding: are the boxes where the entities are, in the right image, as the right kind of thing?"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from storyreason.scoring.matching import KINDS, Pair, Placed, best
from storyreason.scoring.metrics import Metric, divide, precision_recall_f1, rate

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.50, 0.55, … 0.95, over which COCO averages (Lin et al. 2014)."""


def count(
    reference: Sequence[Placed], predicted: Sequence[Placed], candidates: Sequence[Pair], frames: int
) -> dict[str, float]:
    """One story's sums: boxes on both sides and how many match, in all and by kind.

    `matched` counts pairs at IoU 0.5, `matched_50_95` is the mean of that count over THRESHOLDS (each with its own
    optimal assignment), `iou` the sum of the IoUs of the pairs matched at 0.5. Boxes match within their kind only.
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
        # Where no two pairs share a box at 0.5, none do above: most stories need no second assignment.
        at_any.update(reference[pair.reference].kind for pair in (left if len(matched) == len(of_kind) else best(left)))
    for kind in KINDS:
        counts[f"grounding/{kind}/matched_50_95"] = at_any[kind] / len(THRESHOLDS)
    for name in ("reference", "predicted", "matched", "iou", "matched_50_95"):
        counts[f"grounding/{name}"] = sum(counts[f"grounding/{kind}/{name}"] for kind in KINDS)
    counts["grounding/frames"] = frames
    return counts


def _scores(kind: str = "") -> list[Metric]:
    """All scores of one kind, or of all boxes. Averaging P, R or F1 over thresholds is averaging their numerators: the
    denominators do not depend on the threshold."""
    at = f"grounding/{kind}" if kind else "grounding"
    predicted, reference = f"{at}/predicted", f"{at}/reference"
    mean_iou = Metric(f"strict/{at}/mean_iou", (f"{at}/iou", f"{at}/matched"), lambda s, n: divide(s, n, np.nan))
    return [
        *precision_recall_f1(f"strict/{at}", f"{at}/matched", predicted, reference),
        *precision_recall_f1(f"strict/{at}", f"{at}/matched_50_95", predicted, reference, ending="_50_95"),
        mean_iou,
        rate(f"strict/{at}/entities_per_frame", predicted, "grounding/frames"),
        rate(f"strict/{at}/reference_entities_per_frame", reference, "grounding/frames"),
    ]


METRICS: tuple[Metric, ...] = tuple(metric for kind in ("", *KINDS) for metric in _scores(kind))
