"""Identity: does an ID stay on one entity from image to image?

Sources: IDF1 from Ristani et al. 2016, "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking",
section 3; B-cubed from Bagga and Baldwin 1998, "Algorithms for Scoring Coreference Chains"; ID switches from Bernardin
and Stiefelhagen 2008 (CLEAR MOT).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import comb

from storyreason.scoring.matching import EntityBox, Pair, assign_names, best


def match(
    reference: Sequence[EntityBox], predicted: Sequence[EntityBox], candidates: Sequence[Pair]
) -> tuple[int, list[Pair]]:
    """IDTP, and which boxes are matched, whatever their kind.

    IDTP is how many boxes keep their ID under the one-to-one map of IDs that keeps the most. Where boxes coincide, the
    matching follows that map: a tie must not look like a confusion.
    """
    agreements: Counter[tuple[str, str]] = Counter()
    for (name, other, _), pairs in _by_names_and_image(reference, predicted, candidates).items():
        agreements[name, other] += len(best(pairs))
    same = assign_names(agreements)
    matched = best(candidates, preferred=lambda p: same.get(reference[p.reference].id) == predicted[p.predicted].id)
    return sum(agreements[names] for names in same.items()), matched


def count(
    reference: Sequence[EntityBox], predicted: Sequence[EntityBox], idtp: int, matched: Sequence[Pair]
) -> dict[str, float]:
    """One story's sums over all boxes, from what `match` gives; IDs count by who bears them, never by their name.

    - `bcubed_precision`, `bcubed_recall`: summed over predicted and reference boxes, the share of a box's own chain
      (all boxes of its ID) that is in its chain on the other side too; unmatched boxes give 0;
    - `links`: pairs of boxes with the same ID in different images, on both sides, and how many are right;
    - `switches`: how often an entity is found again under another ID than the last time.

    A chain of 3 told as two IDs, 2 + 1, gives idtp 2, bcubed_recall 2 * 2/3 + 1 * 1/3, 1 of 3 links, 1 switch
    """
    chains = Counter(row.id for row in reference), Counter(row.id for row in predicted)
    common: dict[tuple[str, str], list[int]] = defaultdict(list)
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for pair in matched:
        row, other_id = reference[pair.reference], predicted[pair.predicted].id
        common[row.id, other_id].append(row.image)
        found[row.id].append((row.image, other_id))
    return {
        "identity/reference": len(reference),
        "identity/predicted": len(predicted),
        "identity/idtp": idtp,
        "identity/bcubed_precision": sum(len(images) ** 2 / chains[1][p] for (_, p), images in common.items()),
        "identity/bcubed_recall": sum(len(images) ** 2 / chains[0][r] for (r, _), images in common.items()),
        "identity/links/reference": sum(map(_links, _images_by_id(reference))),
        "identity/links/predicted": sum(map(_links, _images_by_id(predicted))),
        "identity/links/right": sum(map(_links, common.values())),
        "identity/switches": sum(map(_switches, found.values())),
    }


def _by_names_and_image(
    reference: Sequence[EntityBox], predicted: Sequence[EntityBox], candidates: Sequence[Pair]
) -> dict[tuple[str, str, int], list[Pair]]:
    groups: dict[tuple[str, str, int], list[Pair]] = defaultdict(list)
    for pair in candidates:
        row = reference[pair.reference]
        groups[row.id, predicted[pair.predicted].id, row.image].append(pair)
    return groups


def _images_by_id(rows: Sequence[EntityBox]) -> Iterable[list[int]]:
    images: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        images[row.id].append(row.image)
    return images.values()


def _links(images: Sequence[int]) -> int:
    """Pairs of boxes in different images: `[1, 2, 2]` has two."""
    return comb(len(images), 2) - sum(comb(number, 2) for number in Counter(images).values())


def _switches(found: list[tuple[int, str]]) -> int:
    """`[(1, "a"), (2, "b"), (4, "b")]` has one. Images in order, a double in one image in the order of the text."""
    ids = [name for _, name in sorted(found, key=lambda entry: entry[0])]
    return sum(a != b for a, b in pairwise(ids))
