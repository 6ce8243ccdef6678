"""A judge in the gate holds back what it likes less than the incumbent, beyond chance, and does nothing else."""

from pathlib import Path

import pytest

from storyreason import dataset
from storyreason.format import answer
from storyreason.judging import Candidate, veto
from storyreason.scoring import Decision
from storyreason.scoring.config import GateConfig, JudgeConfig
from storyreason.scoring.gate import Check
from tests.storyreason.authoring.scripted import Script
from tests.storyreason.judging.test_judging import PIXEL, honest, judged, told

GATE, JUDGE = GateConfig(min_stories=4), JudgeConfig(endpoint="http://judge", model="judge")


def pairs(*wrong: int) -> list[Candidate]:
    """Challenger's stories with so many faults; the incumbent's have one each."""
    return [
        Candidate(f"film-{number}", f"film-{number}", (PIXEL,), f"{number} " + "wrong " * faults, "a wrong one")
        for number, faults in enumerate(wrong)
    ]


def checked(folder: Path, candidates: list[Candidate], script: Script = honest) -> Check:
    return veto.check(candidates, judged(folder, candidates, script)[1], JUDGE, GATE)


@pytest.mark.parametrize(
    ("faults", "passes", "said"),
    [
        ((2, 2, 2, 2, 3), False, "-1.00 (95% interval -1.00 to -1.00) over 5 stories"),
        ((1, 1, 1, 1), True, "+0.00"),
        ((0, 0, 0, 0), True, "+1.00"),
        ((2, 0, 2, 1), True, "-0.25"),  # it prefers the incumbent's more often, which may be chance
    ],
)
def test_the_incumbents_stories_must_be_preferred_beyond_chance(
    faults: tuple[int, ...], passes: bool, said: str, tmp_path: Path
) -> None:
    found = checked(tmp_path, pairs(*faults))
    assert (found.passed, found.found.startswith(said)) == (passes, True), found
    assert found.found.endswith("100% the same when they change places")


def test_too_few_stories_or_a_judge_that_contradicts_itself_hold_nothing_back(tmp_path: Path) -> None:
    few = checked(tmp_path / "few", pairs(2, 2, 2))
    assert few.passed and few.found == "not counted: 3 of 3 stories were judged, and 4 are required"
    biased = checked(tmp_path / "biased", pairs(2, 2, 2, 2), lambda body, _: told(4, 3))
    assert biased.passed
    assert biased.found == "not counted: 0% of its preferences are the same when the stories change places"
    silent = checked(tmp_path / "silent", pairs(2, 2, 2, 2), lambda body, _: "I cannot say.")
    assert silent.passed and silent.found.startswith("not counted: 0 of 4 stories were judged")


def test_a_judge_never_promotes() -> None:
    kept = Decision("keep", "box F1 fell", "train", "new", "old", 4, GATE, ())
    promoted = Decision("promote", "box F1 rose", "nothing", "new", "old", 4, GATE, ())
    likes = Check(veto.NAME, True, "+1.00", "not worse", "")
    dislikes = Check(veto.NAME, False, "-1.00", "not worse", "read them")

    for found in (likes, dislikes):
        assert (veto.held(kept, found).verdict, veto.held(kept, found).reason) == ("keep", "box F1 fell")
    assert veto.held(promoted, likes).verdict == "promote"
    held = veto.held(promoted, dislikes)
    assert (held.verdict, held.advice) == ("keep", "read them")
    assert held.reason == "a judge's preference: -1.00, required: not worse."
    assert held.checks == (dislikes,)


def test_both_models_stories_are_read_from_their_answers(examples: list[dataset.Example]) -> None:
    one = examples[0]
    whole = {one.story_id: answer.join(one.chain_of_thought, one.story)}
    (found,) = veto.candidates([one], {}, whole)
    assert (found.name, found.images, found.story) == (one.story_id, one.images, "")
    assert found.other.strip() == one.story.strip()
