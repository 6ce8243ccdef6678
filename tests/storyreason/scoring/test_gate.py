"""The gate's decision, from scorecards whose sums are written by hand."""

from dataclasses import replace

import numpy as np
import pytest

from storyreason.errors import ScoringError
from storyreason.scoring import Decision, Scorecard, control, decide
from storyreason.scoring.config import GateConfig
from storyreason.scoring.gate_report import report
from storyreason.scoring.scorecard import Control


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


WEAK = [4, 5, 6, 5] * 10
STRONG = [6, 7, 8, 8] * 10


def test_a_significantly_better_challenger_is_promoted() -> None:
    decision = decide(card(STRONG), card(WEAK), GateConfig(), challenger="version 2", incumbent="version 1")

    assert decision.promote
    assert decision.verdict == "promote"
    assert "box F1, grounded: +0.225 (0.500 to 0.725;" in decision.reason
    assert report(decision).startswith("# Promote version 2\n")
    assert "| box F1, grounded | **+0.225 [" in report(decision)
    assert report(decision).endswith("`scores.json` of its run.\n")


def test_a_gain_that_may_be_chance_keeps_the_champion() -> None:
    # given: half of the stories rise by one box, nearly half fall by one
    lucky = [box + (1 if i % 2 else -1) for i, box in enumerate(WEAK)]
    lucky[0] += 3
    decision = decide(card(lucky), card(WEAK), GateConfig(), challenger="version 2", incumbent="version 1")

    assert decision.verdict == "keep"
    assert "may be chance" in report(decision)
    assert report(decision).startswith("# Keep version 1\n")


def test_a_negative_min_gain_accepts_a_model_that_is_about_as_good() -> None:
    assert not decide(card(WEAK), card(WEAK), GateConfig()).promote
    assert decide(card(WEAK), card(WEAK), GateConfig(min_gain=-0.01)).promote


@pytest.mark.parametrize(("invalid", "promoted"), [(0, True), (1, True), (2, False)])
def test_validity_may_fall_by_a_hundredth_and_not_by_more(invalid: int, promoted: bool) -> None:
    # given: a hundred stories, of which the challenger breaks the rules in one or two
    ours = card([8] * 100, valid=[0] * invalid + [1] * (100 - invalid))
    decision = decide(ours, card([5] * 100), GateConfig())

    assert decision.promote is promoted
    if not promoted:
        assert "valid answers, grounded: -0.020" in decision.reason
        assert "`gate.validity_tolerance`" in report(decision)


@pytest.mark.parametrize(("valid", "promoted"), [(19, False), (20, True)])
def test_mostly_invalid_answers_are_not_promoted_however_bad_the_incumbent(valid: int, promoted: bool) -> None:
    ours = card(STRONG, valid=[1] * valid + [0] * (40 - valid))
    decision = decide(ours, card(WEAK, valid=[0] * 40), GateConfig())

    assert decision.promote is promoted
    if not promoted:
        assert "share of valid answers (grounded decoding): 0.475, required: at least 0.500" in decision.reason
        assert "`gate.min_validity`" in decision.reason


def test_validity_is_guarded_in_free_decoding_if_known() -> None:
    # given: under grammars both models are valid; freely, the challenger is so in 36 of 40 stories, the other in all
    free = card(STRONG, valid=[1] * 36 + [0] * 4), card(WEAK)
    decision = decide(card(STRONG), card(WEAK), GateConfig(), free=free)

    assert not decision.promote
    assert "valid answers, free: -0.100 (1.000 to 0.900" in decision.reason
    # then: the row of what was checked and the row of the scores say which decoding they are of
    rows = [line for line in report(decision).splitlines() if "valid answers, " in line and line[0] in "-|"]
    assert rows[0].startswith("- **failed**: valid answers, free: -0.100")
    assert rows[1] == "| valid answers, grounded | +0.000 [+0.000, +0.000] | 1.000 | 1.000 |"


def test_identity_and_hallucinations_stay_within_tolerance() -> None:
    def with_guards(matched: int, idtp: int, hallucinations: int) -> Scorecard:
        return card(
            [matched] * 40,
            identity__idtp=[idtp] * 40,
            identity__predicted=[50] * 40,
            identity__reference=[50] * 40,
            references__hallucinations=[hallucinations] * 40,
            references__mentions=[200] * 40,
        )

    champion = with_guards(5, idtp=40, hallucinations=4)

    assert decide(with_guards(8, idtp=39, hallucinations=5), champion, GateConfig()).promote
    assert "identity IDF1, grounded: -0.040" in decide(with_guards(8, 38, 4), champion, GateConfig()).reason
    assert "mentions, grounded: +1.00 (2.00 to 3.00" in decide(with_guards(8, 40, 6), champion, GateConfig()).reason


@pytest.mark.parametrize(
    ("right", "words", "failed"),
    [(9, 105, ""), (9, 95, ""), (9, 106, "words per story"), (9, 94, "words per story"), (5, 100, "box recall")],
)
def test_an_improved_version_keeps_recall_and_length(right: int, words: int, failed: str) -> None:
    def told(matched: int, predicted: int, words: int) -> Scorecard:
        made = card([matched] * 40, length__words=[words] * 40)
        made.sums[:, made.columns.index("grounding/predicted")] = predicted
        return made

    champion, config = told(6, 12, 100), GateConfig()
    challenger = told(right, 5 if right == 5 else 10, words)  # which says less is right more often

    assert decide(challenger, champion, config).promote  # a version that was not improved may
    decision = decide(challenger, champion, config.of_improved())
    assert decision.promote is (failed == "")
    assert failed in decision.reason
    asked = GateConfig(recall_tolerance=0.2, length_tolerance=0.1)
    assert asked.of_improved() == asked
    assert decide(challenger, champion, asked).promote


@pytest.mark.parametrize(("words", "promoted"), [(102, True), (4, False)])
def test_an_improved_version_keeps_the_length_of_the_supervised_one_and_not_that_of_the_base(
    words: int, promoted: bool
) -> None:
    def told(matched: int, words: int) -> Scorecard:
        return card([matched] * 40, length__words=[words] * 40)

    base, supervised, improved = told(1, 4), told(6, 100), told(8, words)
    decision = decide(improved, base, GateConfig().of_improved(), incumbent="base", supervised=supervised)

    assert decision.promote is promoted, decision.reason
    assert ("(100.00 to 4.00;" in decision.reason) is not promoted


def test_a_challenger_that_mentions_nothing_is_not_promoted() -> None:
    silent = card([8] * 40, references__hallucinations=[0] * 40, references__mentions=[0] * 40)
    champion = card([5] * 40, references__hallucinations=[1] * 40, references__mentions=[100] * 40)
    decision = decide(silent, champion, GateConfig())

    assert not decision.promote
    assert (
        "mentions, grounded: undefined, because its stories have no mentions, required: stories with mentions"
        in decision.reason
    )
    assert decide(champion, silent, GateConfig(min_gain=-1, validity_tolerance=1)).promote


def test_fewer_than_thirty_stories_are_too_few_to_decide() -> None:
    decision = decide(card([9] * 29), card([1] * 29), GateConfig())

    assert decision.verdict == "refuse"
    assert not decision.promote
    assert "29 test stories are too few" in decision.reason
    assert decide(card([9] * 29), card([1] * 29), GateConfig(min_stories=29)).promote


@pytest.mark.parametrize("who", ["challenger", "incumbent"])
def test_a_model_trained_on_a_test_story_is_not_compared(who: str) -> None:
    seen = {who: {"film3-1", "film900-1"}}
    decision = decide(card(STRONG), card(WEAK), GateConfig(), incumbent="the incumbent", trained_on=seen)

    assert decision.verdict == "keep"
    assert f"the {who} was trained on 1 of the 40 test stories (for example 'film3-1')" in decision.reason


def test_identical_scores_keep_the_incumbent() -> None:
    decision = decide(card(STRONG), card(STRONG), GateConfig())

    assert decision.verdict == "keep"
    assert "the same scores on every story" in decision.reason


def test_stories_are_compared_by_their_ids_whatever_the_order() -> None:
    weak = card(WEAK)
    turned = Scorecard(weak.story_ids[::-1], weak.columns, weak.sums[::-1])

    straight = decide(card(STRONG), weak, GateConfig())
    assert decide(card(STRONG), turned, GateConfig()).reason == straight.reason


def test_mismatched_scorecards_are_rejected_with_one_sentence() -> None:
    with pytest.raises(
        ScoringError, match=r"different stories: 2 only in the first, 0 only in the second.*same test split"
    ):
        decide(card([9] * 40), card([1] * 38), GateConfig(min_stories=2))
    with pytest.raises(ScoringError, match="'free/paper/F1' is not on both scorecards"):
        decide(
            card(STRONG),
            card(WEAK),
            GateConfig(primary="free/paper/F1"),
        )


def controlled(matched: list[int], kept: list[int], **settings: float) -> Decision:
    """The decision on a challenger with a control in which `kept` of its boxes match, against a weak champion."""
    ours, wrong = card(matched), card(kept)
    ours = replace(ours, controls={control.REFERENCE: Control(dict.fromkeys(wrong.story_ids, "other-1"), wrong)})
    return decide(ours, card(WEAK), GateConfig.model_validate(settings))


def test_a_challenger_that_needs_the_pictures_is_promoted_and_the_report_says_what_its_control_keeps() -> None:
    decision = controlled(STRONG, [1, 2, 1, 2] * 10)

    assert decision.promote
    assert (
        "- passed: control of box F1, grounded, other-reference: 0.150 (95% interval 0.135 to 0.165) of 0.725 "
        "remain against the references of other films' stories; required: an upper bound under a third, 0.242"
    ) in report(decision)


def test_a_challenger_that_gets_a_third_of_its_score_from_other_pictures_is_held() -> None:
    decision = controlled(STRONG, [2, 3, 2, 3] * 10)  # 0.25 of 0.725

    assert decision.verdict == "keep"
    assert "text-only for this model" in decision.advice
    assert "control of box F1, grounded, other-reference: 0.250" in decision.reason


def test_the_bound_of_the_control_decides_and_not_its_value() -> None:
    # Given a control of 0.2 on average, whose interval reaches above 0.242
    uneven = [0] * 32 + [10] * 8

    assert not controlled(STRONG, uneven).promote
    assert controlled(STRONG, [2] * 40).promote


def test_a_control_of_few_stories_and_a_score_of_nothing_decide_nothing() -> None:
    few = controlled([8] * 40, [8] * 20)
    assert few.promote
    assert "control of box F1, grounded, other-reference: not known: 20 stories have it" in report(few)
    assert controlled([0] * 40, [0] * 40, min_gain=-1).promote
