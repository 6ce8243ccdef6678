"""Sums, scores, intervals and paired differences, on numbers small enough to check by hand."""

import numpy as np
import pytest

from storyreason.errors import ScoringError
from storyreason.scoring import Scorecard, compare
from storyreason.scoring.scorecard import draws


def card(matched: list[float], predicted: list[float], reference: list[float]) -> Scorecard:
    sums = np.array([matched, predicted, reference], float).T
    columns = ("grounding/matched", "grounding/predicted", "grounding/reference")
    return Scorecard(tuple("abcdefghijklmnopqrstuvwxyz"[: len(matched)]), columns, sums)


def test_ratios_are_of_sums_over_stories() -> None:
    # given: one box of one right, and one of nine
    metrics = card([1, 1], [1, 9], [2, 2]).metrics()

    assert metrics["strict/grounding/precision"] == 2 / 10  # not the mean of 1 and 1/9
    assert metrics["strict/grounding/recall"] == 2 / 4
    assert metrics["strict/grounding/f1"] == 2 * 2 / (10 + 4)


@pytest.mark.parametrize(
    ("predicted", "reference", "precision", "recall", "f1"),
    [(0, 0, 1, 1, 1), (0, 5, 0, 0, 0), (5, 0, 0, 0, 0)],
)
def test_zero_of_zero_is_perfect_and_silence_is_not(
    predicted: float, reference: float, precision: float, recall: float, f1: float
) -> None:
    metrics = card([0], [predicted], [reference]).metrics()

    assert metrics["strict/grounding/precision"] == precision
    assert metrics["strict/grounding/recall"] == recall
    assert metrics["strict/grounding/f1"] == f1


def test_an_undefined_score_is_omitted() -> None:
    nothing = Scorecard(("a",), ("grounding/iou", "grounding/matched"), np.zeros((1, 2)))

    assert "strict/grounding/mean_iou" not in nothing.metrics()
    assert nothing.intervals() == {}
    assert nothing.table() == [{"story_id": "a"}]


def test_the_table_scores_each_story_alone() -> None:
    rows = card([1, 1], [1, 9], [2, 2]).table()

    assert [row["story_id"] for row in rows] == ["a", "b"]
    assert [row["strict/grounding/precision"] for row in rows] == [1, 1 / 9]


def test_an_interval_is_the_bootstrap_of_the_ratio() -> None:
    # given: 26 stories of which each matches all of its boxes or none
    matched, boxes = [0.0, 4.0] * 13, [4.0] * 26
    low, high = card(matched, boxes, boxes).intervals(resamples=4000)["strict/grounding/f1"]

    # then: the mean of 26 coins is within two standard errors (0.5 / sqrt(26) = 0.098) of a half, 19 times of 20
    assert low == pytest.approx(0.5 - 1.96 * 0.098, abs=0.03)
    assert high == pytest.approx(0.5 + 1.96 * 0.098, abs=0.03)


def test_intervals_repeat_with_their_seed_and_narrow_with_their_confidence() -> None:
    scorecard = card([0.0, 4.0, 1.0, 3.0], [4.0] * 4, [4.0] * 4)

    assert scorecard.intervals(seed=3) == scorecard.intervals(seed=3)
    wide, narrow = scorecard.intervals(0.95), scorecard.intervals(0.5)
    assert wide["strict/grounding/f1"][0] < narrow["strict/grounding/f1"][0]
    assert wide["strict/grounding/f1"][1] > narrow["strict/grounding/f1"][1]


def test_a_small_gain_on_every_story_is_real_where_unpaired_intervals_overlap() -> None:
    # given: stories of very different worth, and a model that finds one box more in each
    before = [float(i % 9) for i in range(26)]
    boxes = [10.0] * 26
    b, a = card(before, boxes, boxes), card([m + 1 for m in before], boxes, boxes)
    change = compare(a, b)["strict/grounding/f1"]

    assert change.gain == pytest.approx(0.1)
    assert change.real
    assert (change.low, change.high) == pytest.approx((0.1, 0.1))
    assert a.intervals()["strict/grounding/f1"][0] < b.intervals()["strict/grounding/f1"][1]
    assert not compare(b, b)["strict/grounding/f1"].real


def test_scores_do_not_depend_on_the_order_of_stories() -> None:
    scorecard = card([0, 4, 1], [4, 5, 6], [4, 4, 4])
    turned = Scorecard(scorecard.story_ids[::-1], scorecard.columns, scorecard.sums[::-1])

    assert turned.metrics() == scorecard.metrics()
    assert all(change.gain == change.low == change.high == 0 for change in compare(scorecard, turned).values())


def test_a_stored_scorecard_is_restored_exactly() -> None:
    scorecard = card([0.1, 1 / 3], [4, 5e300], [4, 4])
    read = Scorecard.from_json(scorecard.to_json())

    assert (read.story_ids, read.columns) == (scorecard.story_ids, scorecard.columns)
    np.testing.assert_array_equal(read.sums, scorecard.sums)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "story_ids": ["a"], "columns": ["x"]}']
)
def test_an_invalid_scorecard_says_what_to_do(text: str) -> None:
    with pytest.raises(ScoringError, match="evaluate the model again"):
        Scorecard.from_json(text)


def test_many_stories_are_resampled_in_bounded_memory() -> None:
    # given: more stories times resamples than are drawn at once
    generator = np.random.default_rng(1)
    count = 20_000
    matched = generator.integers(0, 5, count).astype(float)
    sums = np.stack([matched, np.full(count, 5.0), np.full(count, 5.0)], 1)
    columns = ("grounding/matched", "grounding/predicted", "grounding/reference")
    many = Scorecard(tuple(map(str, range(count))), columns, sums)

    low, high = many.intervals(resamples=1000)["strict/grounding/f1"]
    assert low < many.metrics()["strict/grounding/f1"] < high
    assert high - low < 0.02


def test_the_stories_of_a_film_are_drawn_together() -> None:
    ids = ["a-1", "b-1", "a-2", "c-1", "c-2", "c-3"]
    times = np.concatenate(list(draws(ids, 500, seed=0)))
    assert times.shape == (500, 6)
    for one, other in ((0, 2), (3, 4), (4, 5)):
        assert (times[:, one] == times[:, other]).all()
    assert ((times[:, 0] + times[:, 1] + times[:, 3]) == 3).all()  # as many films as there are
    # The stories of a single film, and those without films, are drawn one by one
    for ids in (["a-1", "a-2", "a-3"], ["one", "two", "three"]):
        times = np.concatenate(list(draws(ids, 500, seed=0)))
        assert (times.sum(axis=1) == 3).all() and (times[:, 0] != times[:, 1]).any()


def test_a_gain_in_some_films_only_is_less_certain_than_one_in_as_many_stories() -> None:
    gains = np.repeat([0.5, -0.2, 0.4, -0.1, 0.3], 12)[:, None]
    alike, apart = (
        Scorecard(tuple(f"film {place // 12}{sign}{place}" for place in range(60)), ("hits",), gains) for sign in "-_"
    )
    widths = [np.ptp(np.quantile(np.concatenate([w @ card.sums for w in draws(card.story_ids, 2000, 0)]), [0.025, 0.975]))
              for card in (alike, apart)]  # fmt: skip
    assert widths[0] > 3 * widths[1]
