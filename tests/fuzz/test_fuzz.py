"""The readers keep their promises on 20,000 mutated answers; `python -m tests.fuzz --cases 1000000` tries more."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storyreason.format import answer, rules
from tests.fuzz import answers
from tests.fuzz.__main__ import failure, shortest
from tests.fuzz.properties import examine

CASES, PARTS = 20_000, 10


@pytest.mark.server  # for the minute that it takes
@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_answers(part: int) -> None:
    for number in range(part * CASES // PARTS, (part + 1) * CASES // PARTS):
        text, sizes, chance = answers.case(number)
        try:
            examine(text, sizes, chance)
        except Exception as error:
            raise AssertionError(f"python -m tests.fuzz --first {number} --cases 1") from error


@pytest.mark.parametrize("number", range(len(answers.seeds())))
def test_answers_that_once_broke_something(number: int) -> None:
    for turn in range(50):
        examine(answers.seeds()[number], [(100, 80)], random.Random(turn))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_the_grammar_writes_valid_answers(chance: random.Random) -> None:
    """Otherwise mutations would only ever be applied to what is refused anyhow. Hypothesis draws the choices and shrinks them."""
    text, sizes = answers.well_formed(chance)
    assert [one for one in rules.check(answer.read(text), sizes) if rules.RULES[one.rule].severity == "error"] == []


def test_a_case_is_the_same_everywhere() -> None:
    assert answers.case(7)[:2] == answers.case(7)[:2]
    assert answers.case(7)[0] != answers.case(8)[0]


def test_a_broken_promise_is_found_and_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    def feed(self: answer.Reader, text: str) -> None:
        assert "\u2028" not in text, "a reader that stumbles over a line separator"
        self._advance(text)

    monkeypatch.setattr(answer.Reader, "feed", feed)
    text, sizes, state = f"<think>\u2028{'x' * 500}", [(9, 9)], random.Random(1).getstate()
    assert isinstance(failure(text, sizes, state), AssertionError)
    assert shortest(text, sizes, state) == "\u2028"
    assert failure(text.replace("\u2028", ""), sizes, state) is None
