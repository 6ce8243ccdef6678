"""The gate's decision, from scorecards whose sums are written by hand."""

import numpy as np
import pytest

from storyreason.errors import ScoringError
from storyreason.scoring import Scorecard
from storyreason.scoring.config import GateConfig
from storyreason.scoring.gate import Candidate, decide


def card(matched: list[int], valid: list[int] | None = None, **more: list[float]) -> Scorecard:
    """A scorecard of stories with ten boxes on each side, of which `matched` are right."""
    columns = {
        "stories": [1] * len(matched),
        "validity/valid": valid or [1] * len(matched),
        "grounding/matched": matched,
        "grounding/predicted": [10] * len(matched),
        "grounding/reference": [10] * len(matched),
        **{name.replace("__", "/"): values for name, values in more.items()},
    }
    ids = tuple(f"film{i}-1" for i in range(len(matched)))
    return Scorecard(ids, tuple(columns), np.array(list(columns.values()), float).T)


def candidate(name: str, scorecard: Scorecard, **more: object) -> Candidate:
    return Candidate(name, {"free": scorecard}, **more)  # type: ignore[arg-type]


WEAK = [4, 5, 6, 5] * 10
STRONG = [6, 7, 8, 8] * 10


def test_a_challenger_that_is_better_beyond_doubt_is_promoted() -> None:
    decision = decide(candidate("version 2", card(STRONG)), candidate("version 1", card(WEAK)), GateConfig())

    assert decision.promote
    assert decision.verdict == "promote"
    assert "strict/grounding/f1: +0.225 (0.500 to 0.725;" in decision.reason
    assert decision.report.startswith("# Promote version 2\n")
    assert "| strict/grounding/f1 | 0.725 [" in decision.report


def test_a_gain_that_may_be_chance_keeps_the_champion() -> None:
    # given: half of the stories rise by one box, nearly half fall by one
    lucky = [box + (1 if i % 2 else -1) for i, box in enumerate(WEAK)]
    lucky[0] += 3
    decision = decide(candidate("version 2", card(lucky)), candidate("version 1", card(WEAK)), GateConfig())

    assert decision.verdict == "keep"
    assert "may be chance" in decision.report
    assert decision.report.startswith("# Keep version 1\n")


def test_a_negative_min_gain_accepts_as_good_and_fresher() -> None:
    ours, theirs = candidate("new", card(WEAK)), candidate("old", card(WEAK))

    assert not decide(ours, theirs, GateConfig()).promote
    assert decide(ours, theirs, GateConfig(min_gain=-0.01)).promote


@pytest.mark.parametrize(("invalid", "promoted"), [(0, True), (1, True), (2, False)])
def test_validity_may_fall_by_a_hundredth_and_not_by_more(invalid: int, promoted: bool) -> None:
    # given: a hundred stories, of which the challenger breaks the rules in one or two
    ours = card([8] * 100, valid=[0] * invalid + [1] * (100 - invalid))
    decision = decide(candidate("new", ours), candidate("old", card([5] * 100)), GateConfig())

    assert decision.promote is promoted
    if not promoted:
        assert "strict/validity/valid: -0.020" in decision.reason
        assert "`gate.validity_tolerance`" in decision.report


def test_fewer_than_thirty_stories_are_not_decided_on() -> None:
    decision = decide(candidate("new", card([9] * 29)), candidate("old", card([1] * 29)), GateConfig())

    assert decision.verdict == "refuse"
    assert not decision.promote
    assert "29 test stories are too few" in decision.reason
    assert decide(
        candidate("new", card([9] * 29)), candidate("old", card([1] * 29)), GateConfig(min_stories=29)
    ).promote


@pytest.mark.parametrize("who", ["challenger", "incumbent"])
def test_whoever_has_trained_on_a_test_story_ends_the_comparison(who: str) -> None:
    seen = frozenset({"film3-1", "film900-1"})
    ours = candidate("the challenger", card(STRONG), trained_on=seen if who == "challenger" else frozenset())
    theirs = candidate("the incumbent", card(WEAK), trained_on=seen if who == "incumbent" else frozenset())
    decision = decide(ours, theirs, GateConfig())

    assert decision.verdict == "keep"
    assert f"the {who} has trained on 1 of the 40 test stories ('film3-1' for one)" in decision.reason


def test_the_same_model_has_nothing_to_gain() -> None:
    ours = candidate("version 3", card(STRONG), identity="a1b2")
    theirs = candidate("the champion", card(STRONG), identity="a1b2")
    decision = decide(ours, theirs, GateConfig(min_gain=-1))

    assert decision.verdict == "keep"
    assert "the same model" in decision.reason


def test_stories_are_compared_by_their_ids_whatever_the_order() -> None:
    weak = card(WEAK)
    turned = Scorecard(weak.story_ids[::-1], weak.columns, weak.sums[::-1])

    straight = decide(candidate("new", card(STRONG)), candidate("old", weak), GateConfig())
    assert decide(candidate("new", card(STRONG)), candidate("old", turned), GateConfig()).reason == straight.reason


def test_scorecards_that_do_not_fit_are_refused_with_one_sentence() -> None:
    with pytest.raises(ScoringError, match=r"different stories: 2 only in the first, 0 only in the second.*same test split"):
        decide(candidate("new", card([9] * 40)), candidate("old", card([1] * 38)), GateConfig(min_stories=2))
    with pytest.raises(ScoringError, match="'free/strict/no-such/score' is not on both scorecards"):
        decide(
            candidate("new", card(STRONG)),
            candidate("old", card(WEAK)),
            GateConfig(primary="free/strict/no-such/score"),
        )
    with pytest.raises(ScoringError, match=r"old was not scored with grounded decoding \(found: free\)"):
        ours = Candidate("new", {"grounded": card(STRONG)})
        decide(ours, candidate("old", card(WEAK)), GateConfig(primary="grounded/strict/grounding/f1"))
