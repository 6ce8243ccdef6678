"""Identity: does an ID stay with one entity from image to image?

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
    """IDTP (Ristani et al. 2016, section 3), and the matched boxes, whatever their kind.

    IDTP is the number of boxes whose ID agrees under the one-to-one mapping of IDs that makes the most agree. Where boxes
    coincide, the matching prefers that mapping, so that a tie does not look like a confusion.
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
    """One story's counts over all boxes, from the result of `match`. Only which boxes share an ID matters, not its name.

    - `bcubed_precision`, `bcubed_recall`: the sum over predicted (reference) boxes of the share of the box's chain, i.e.
      all boxes with its ID, that is also in its chain on the other side; an unmatched box adds 0;
    - `links`: pairs of boxes with the same ID in different images on each side, and how many of them are right;
    - `switches`: how often an entity reappears under a different ID than before.

    A chain of 3 that is predicted as two IDs, 2 + 1, gives idtp 2, bcubed_recall 2 * 2/3 + 1 * 1/3, 1 of 3 links and
    1 switch.
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
    """The number of pairs of boxes in different images: 2 for `[1, 2, 2]`."""
    return comb(len(images), 2) - sum(comb(number, 2) for number in Counter(images).values())


def _switches(found: list[tuple[int, str]]) -> int:
    """The number of ID changes: 1 for `[(1, "a"), (2, "b"), (4, "b")]`. Sorted by image, then in text order."""
    ids = [name for _, name in sorted(found, key=lambda entry: entry[0])]
    return sum(a != b for a, b in pairwise(ids))
