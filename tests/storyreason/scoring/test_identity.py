"""Identity on chains of boxes that are worked out by hand, and against an independent implementation of IDF1."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storyreason.format.boxes import Box
from storyreason.scoring import identity
from storyreason.scoring.matching import EntityBox, pairs


def chain(id: str, *images: int, at: int = 0) -> list[EntityBox]:
    """An entity with the same box, 10 pixels to a side, in each of the images."""
    return [EntityBox(id, "char", image, Box(at, 0, at + 10, 10)) for image in images]


def count(reference: list[EntityBox], predicted: list[EntityBox]) -> dict[str, float]:
    idtp, matched = identity.match(reference, predicted, pairs(reference, predicted))
    return identity.count(reference, predicted, idtp, matched)


def test_a_chain_split_into_two_ids() -> None:
    counts = count(chain("char1", 1, 2, 3), chain("a", 1, 2) + chain("b", 3))

    assert counts["identity/idtp"] == 2
    assert counts["identity/bcubed_precision"] == 3  # each of the three stands in a pure chain
    assert counts["identity/bcubed_recall"] == pytest.approx(2 * 2 / 3 + 1 * 1 / 3)
    assert (counts["identity/links/reference"], counts["identity/links/predicted"]) == (3, 1)
    assert counts["identity/links/right"] == 1
    assert counts["identity/switches"] == 1


def test_one_id_for_everybody() -> None:
    # given: two people, three images each, and an answer that calls both "char1"
    reference = chain("char1", 1, 2, 3) + chain("char2", 1, 2, 3, at=50)
    counts = count(reference, chain("char1", 1, 2, 3) + chain("char1", 1, 2, 3, at=50))

    assert counts["identity/idtp"] == 3  # one of the two keeps the ID
    assert counts["identity/bcubed_precision"] == 6 * 3 / 6
    assert counts["identity/bcubed_recall"] == 6
    assert counts["identity/links/predicted"] == 12
    assert counts["identity/links/right"] == 6
    assert counts["identity/switches"] == 0


def test_the_example_of_bagga_and_baldwin() -> None:
    # given: the truth 1-5, 6-7, 8-12 and the first response of their figure, which puts 8-12 to 6-7
    truth, response = [*"AAAAA", *"BB", *"CCCCC"], [*"aaaaa", *"bbbbbbb"]
    reference = [EntityBox(id, "char", 1, Box(at * 20, 0, at * 20 + 10, 10)) for at, id in enumerate(truth)]
    predicted = [EntityBox(id, "char", 1, Box(at * 20, 0, at * 20 + 10, 10)) for at, id in enumerate(response)]
    counts = count(reference, predicted)

    # then: their precision is 16/21 = 76 %, their recall 100 %
    assert counts["identity/bcubed_precision"] / 12 == pytest.approx(16 / 21)
    assert counts["identity/bcubed_recall"] / 12 == 1


def test_a_missed_box_costs_recall_and_an_invented_one_precision() -> None:
    counts = count(chain("char1", 1, 2, 3, 4), chain("x", 1, 2) + chain("x", 3, at=200))

    assert counts["identity/idtp"] == 2
    assert counts["identity/bcubed_precision"] == pytest.approx(2 * 2 / 3)
    assert counts["identity/bcubed_recall"] == pytest.approx(2 * 2 / 4)
    assert counts["identity/links/right"] == 1


def test_coinciding_boxes_do_not_look_like_a_confusion() -> None:
    # given: two entities with the same box in every image, told in the other order
    reference = chain("char1", 1, 2, 3) + chain("char2", 1, 2, 3)
    counts = count(reference, chain("char2", 1, 2, 3) + chain("char1", 1, 2, 3))

    assert counts["identity/idtp"] == counts["identity/bcubed_precision"] == counts["identity/bcubed_recall"] == 6
    assert counts["identity/links/right"] == counts["identity/links/reference"] == 6
    assert counts["identity/switches"] == 0


def test_a_switch_is_counted_across_a_gap_and_once() -> None:
    reference = chain("char1", 1, 2, 3, 4, 5)

    assert count(reference, chain("a", 1) + chain("b", 3, 4) + chain("a", 5))["identity/switches"] == 2


@st.composite
def scenes(draw: st.DrawFn) -> list[EntityBox]:
    """Up to four entities in up to five images, on a coarse grid so that boxes often overlap; one box an image each."""
    rows = []
    for entity in range(draw(st.integers(0, 4))):
        for image in draw(st.sets(st.integers(1, 5))):
            x, y = draw(st.integers(0, 4)) * 3, draw(st.integers(0, 2)) * 3
            rows.append(EntityBox(f"char{entity + 1}", "char", image, Box(x, y, x + 10, y + 10)))
    return rows


@settings(max_examples=60, deadline=None)
@given(scenes(), scenes())
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::RuntimeWarning")
def test_idf1_agrees_with_motmetrics(reference: list[EntityBox], predicted: list[EntityBox]) -> None:
    import motmetrics

    if not reference or not predicted:  # motmetrics knows no empty side
        assert count(reference, predicted)["identity/idtp"] == 0
        return
    tracks = motmetrics.MOTAccumulator(auto_id=True)
    for image in range(1, 6):
        ours = [row for row in reference if row.image == image]
        theirs = [row for row in predicted if row.image == image]
        distances = np.full((len(ours), len(theirs)), np.nan)
        for i, a in enumerate(ours):
            for j, b in enumerate(theirs):
                if found := pairs([a], [b]):
                    distances[i, j] = 1 - found[0].iou
        tracks.update([int(row.id[4:]) for row in ours], [int(row.id[4:]) for row in theirs], distances)
    expected = motmetrics.metrics.create().compute(tracks, metrics=["idtp", "idfp", "idfn"], name="x").loc["x"]
    counts = count(reference, predicted)

    assert counts["identity/idtp"] == expected["idtp"]
    assert counts["identity/predicted"] - counts["identity/idtp"] == expected["idfp"]
    assert counts["identity/reference"] - counts["identity/idtp"] == expected["idfn"]
