"""A scripted judge of known behaviour is found to agree as computed by hand; what was judged is not paid again."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storyreason import dataset, judging
from storyreason.authoring.calls import Author, Budget
from storyreason.authoring.config import AuthoringConfig
from storyreason.errors import ConfigError, DataError, EngineAwayError
from storyreason.format import story
from storyreason.format.story import Mention
from storyreason.generation.vllm import VllmServer
from storyreason.judging import Candidate, Judgement, Report, given
from storyreason.judging.rubric import RUBRICS
from tests.storyreason.authoring import scripted
from tests.storyreason.authoring.scripted import Response, Script

PIXEL = (Path(__file__).parents[3] / "docs" / "frames" / "1.jpg").read_bytes()


def candidate(name: str, text: str, planted: int | None = None) -> Candidate:
    return Candidate(name, name, (PIXEL,), text, "the right story", planted)


def told(a: int, b: int) -> str:
    """A judge's reply that rates a story equally on all rubrics."""
    return json.dumps({"why": "…", "a": dict.fromkeys(RUBRICS, a), "b": dict.fromkeys(RUBRICS, b)})


def honest(body: dict[str, Any], _: int = 0) -> str:
    """Takes one from 5 for each word `wrong`."""
    asked = scripted.texts(body)[-1]
    a, b = re.findall(r"Story [AB]:\n\n(.*?)\n\n(?=Story B|Answer)", asked, re.S)
    return told(5 - a.count("wrong"), 5 - b.count("wrong"))


def settings(url: str, **more: Any) -> AuthoringConfig:
    return AuthoringConfig(endpoint=url, model="judge", pause=0, retries=0, price_in=1.0, price_out=10.0, **more)


def judged(
    folder: Path, candidates: Sequence[Candidate], script: Script, people: Any = None
) -> tuple[Report, list[Judgement], Budget, list[dict[str, Any]]]:
    with scripted.endpoint(script) as endpoint:
        config = settings(endpoint.url)
        budget = Budget(config)
        found = judging.judge(Author(config, folder, budget), candidates, concurrency=1)
    return judging.report(candidates, found, people), found, budget, endpoint.bodies


PREDICTIONS = [candidate("one", "a wrong story"), candidate("two", "a wrong, wrong story")]


def test_an_honest_judge_agrees_with_itself_whatever_the_order(tmp_path: Path) -> None:
    found, judgements, budget, bodies = judged(tmp_path, PREDICTIONS, honest)

    assert [(one.name, one.swapped, one.repeat) for one in judgements[:4]] == [
        ("one", False, 0), ("one", False, 1), ("one", True, 0), ("one", True, 1),
    ]  # fmt: skip
    assert found.ratings == dict.fromkeys(RUBRICS, 3.5) and found.other == dict.fromkeys(RUBRICS, 5.0)
    assert found.preferred == {"prediction": 0.0, "neither": 0.0, "other": 1.0}
    assert (found.agrees_swapped, found.agrees_repeated, found.first) == (1.0, 1.0, 0.5)
    assert (found.stories, found.judged, found.refused) == (2, 8, {})
    assert (found.planted, found.correlation["all"], found.alpha) == ({}, None, {})
    assert len({body["seed"] for body in bodies}) == 2  # asked again, and not answered from a cache
    assert bodies[0]["response_format"]["json_schema"]["schema"]["required"] == ["why", "a", "b"]
    assert budget.total().cost == pytest.approx(8 * (1000 * 1 + 100 * 10) / 1e6)


def test_a_judge_that_prefers_what_comes_first_is_found_out(tmp_path: Path) -> None:
    found, *_ = judged(tmp_path, PREDICTIONS, lambda body, _: told(4, 3))

    assert (found.agrees_swapped, found.agrees_repeated, found.first) == (0.0, 1.0, 1.0)
    assert found.preferred == {"prediction": 0.5, "neither": 0.0, "other": 0.5}


def test_a_judge_that_changes_its_mind_is_found_out(tmp_path: Path) -> None:
    # Of each story's four comparisons the second alone prefers the prediction
    replies = [told(3, 4), told(4, 3), told(4, 3), told(4, 3)]
    found, *_ = judged(tmp_path, PREDICTIONS, lambda body, number: replies[number % 4])

    assert (found.agrees_repeated, found.agrees_swapped) == (0.5, 0.5)
    assert found.first == 0.75


def test_the_rank_correlation_with_planted_faults_is_that_computed_by_hand(tmp_path: Path) -> None:
    # Given stories with 0, 1, 2 and 4 faults, of which the judge sees 0, 1, 1 and 3
    seen = {0: 0, 1: 1, 2: 1, 4: 3}
    planted = [candidate(f"with {faults}", "wrong " * count, faults) for faults, count in seen.items()]
    found, *_ = judged(tmp_path, planted, honest)

    assert {faults: rated["action"] for faults, rated in found.planted.items()} == {0: 5, 1: 4, 2: 4, 4: 2}
    # Ranks 1, 2, 3, 4 against 4, 2.5, 2.5, 1: -4.5 / sqrt(5 * 4.5)
    assert found.correlation == pytest.approx(dict.fromkeys([*RUBRICS, "all"], -4.5 / 22.5**0.5))
    assert found.stories == 0 and found.preferred is None


def test_alpha_with_people_is_that_computed_by_hand(tmp_path: Path) -> None:
    # The judge rates 4 and 3; a person 5 and 3, and a story that was not judged
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("rater,story_id,coherence,action\nMara,one,5,\nMara,two,3,\nMara,three,1,\n")
    found, *_ = judged(tmp_path / "replies", PREDICTIONS, honest, given.ratings(ratings))

    # Observed (4-5)^2 * 2 / 4; expected over 4, 3, 5, 3: 22 / 12
    assert found.alpha["coherence"] == pytest.approx(1 - (2 / 4) / (22 / 12))
    assert found.alpha["action"] is None and found.alpha["identity"] is None


def test_alpha_is_that_of_the_judged_stories_whatever_people_think_of_others(tmp_path: Path) -> None:
    # Two people agree on ten stories that were not judged, far from these two
    rows = [f"{rater},far{number},1" for rater in ("Mara", "Leo") for number in range(10)]
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("\n".join(["rater,story_id,coherence", "Mara,one,5", "Mara,two,3", *rows]) + "\n")
    found, *_ = judged(tmp_path / "replies", PREDICTIONS, honest, given.ratings(ratings))

    assert found.alpha["coherence"] == pytest.approx(1 - (2 / 4) / (22 / 12))


def test_a_story_beside_itself_is_not_asked_about_again_in_the_other_order(tmp_path: Path) -> None:
    # Given a judge that changes its mind about everything
    same = candidate("zero", "the right story", 0)
    replies = [told(3, 4), told(4, 3)]
    found, judgements, _, bodies = judged(tmp_path, [same], lambda body, number: replies[number % 2])

    assert [(one.swapped, one.repeat) for one in judgements] == [(False, 0), (False, 1)]
    assert len(bodies) == 2
    assert found.agrees_swapped is None and found.agrees_repeated == 0.0


def test_a_remark_beside_a_rating_may_have_lines_of_any_kind(tmp_path: Path) -> None:
    odd = 'rater,story_id,remark,action\nMara,one,well\u2028told\x85indeed,5\r\nMara,two,"on two\nlines",3\n'
    (tmp_path / "ratings.csv").write_bytes(odd.encode())

    assert given.ratings(tmp_path / "ratings.csv") == {"Mara": {"one": {"action": 5}, "two": {"action": 3}}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rater,story_id\nMara,one\n", "wanted rater, story_id and some of hallucination"),
        ("rater,story_id,action\nMara,one,6\n", "line 2, action is '6'; wanted a number from 1 to 5"),
        ("rater,story_id,action\nMara,one,good\n", "line 2, action is 'good'"),
        ("", "has the columns of no row"),
    ],
)
def test_ratings_that_cannot_be_read_are_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text(text)
    with pytest.raises(DataError, match=re.escape(said)):
        given.ratings(tmp_path / "ratings.csv")


def test_what_has_no_ratings_is_counted_by_its_reason(tmp_path: Path) -> None:
    replies: list[Response | str] = [
        scripted.reply("", refusal="I do not judge stories."),
        "Story A is better.",
        scripted.reply('{"why": "', finish="length"),
        told(6, 3),
    ]
    found, judgements, *_ = judged(tmp_path, PREDICTIONS, scripted.in_turn(replies, honest))

    assert found.refused == {
        "I do not judge stories.": 1,
        "the reply is not the JSON that was asked for": 2,
        "the reply was cut off at the token limit": 1,
    }
    assert found.judged == 4 and [one.ratings for one in judgements[:4]] == [None] * 4
    assert found.ratings["action"] == 3  # of the second story alone


def test_a_run_that_was_interrupted_asks_for_the_rest_alone(tmp_path: Path) -> None:
    gone = scripted.error(503, "overloaded")
    with pytest.raises(EngineAwayError):
        judged(tmp_path, PREDICTIONS, lambda body, number: honest(body) if number < 5 else gone)

    found, _, budget, bodies = judged(tmp_path, PREDICTIONS, honest)

    assert len(bodies) == 3 and found.judged == 8
    assert budget.spent.kept == 5 and budget.total().calls == 8


def test_too_expensive_a_run_ends_before_it_costs_too_much(tmp_path: Path) -> None:
    with scripted.endpoint(honest) as endpoint:
        config = settings(endpoint.url, max_tokens=64, max_cost=0.0045)
        author = Author(config, tmp_path, Budget(config, limit="--max-cost"))
        with pytest.raises(ConfigError, match=r"^--max-cost = 0\.0045 is not enough: 0\.0040 is spent"):
            judging.judge(author, PREDICTIONS, concurrency=1)


# Planted faults


@pytest.fixture(scope="module")
def right(examples: list[dataset.Example]) -> str:
    """A story of five images in which two people meet, and somebody does something."""
    return next(one.story for one in examples if judging.plant(one.story, 4, 0) is not None)


def parts(text: str) -> list[list[str | Mention]]:
    told, problems = story.read(text)
    assert not problems
    return [list(passage.parts) for passage in told.passages]


@pytest.mark.parametrize("kind", judging.FAULTS)
def test_each_fault_can_be_planted_and_changes_what_it_says(kind: str, right: str) -> None:
    import random

    passages = list(story.read(right)[0].passages)
    made = judging.FAULTS[kind](passages, 0, random.Random(1))
    assert made is not None
    changed = [place for place, (one, other) in enumerate(zip(passages, made, strict=True)) if one != other]
    mentions = [
        {part for part in passages[place].parts if isinstance(part, Mention)}
        ^ {part for part in made[place].parts if isinstance(part, Mention)}
        for place in changed
    ]
    if kind == "wrong-image":
        assert changed == [0, 1] and made[0].parts == passages[1].parts and made[1].parts == passages[0].parts
    elif kind == "phantom-entity":
        assert [[one.ids for one in found] for found in mentions] == [[("char91",)]]
    elif kind == "wrong-action":
        ((before, after),) = (sorted(found, key=lambda one: one.text in str(right)) for found in mentions)
        assert before.kind == after.kind == "gda" and before.ids == after.ids and before.text != after.text
    else:
        (place,) = changed
        moved = [
            (one, other) for one, other in zip(passages[place].parts, made[place].parts, strict=True) if one != other
        ]
        assert all(isinstance(one, Mention) and isinstance(other, Mention) for one, other in moved)
        assert all(one.text == other.text for one, other in moved)  # type: ignore[union-attr]
        assert len({one.ids for one, _ in moved if len(one.ids) == 1}) == 2  # type: ignore[union-attr]


def test_stories_have_as_many_faults_as_are_planted(right: str) -> None:
    made = {count: judging.plant(right, count, 3) for count in judging.COUNTS}
    assert parts(made[0] or "") == parts(right)
    assert len({*made.values()}) == len(judging.COUNTS)
    assert made == {count: judging.plant(right, count, 3) for count in judging.COUNTS}
    strangers = [text.count("Beside them stood") for text in made.values() if text]
    assert strangers[0] == 0 and strangers[-1] == 1  # four faults are one of each kind
    assert judging.plant("It rained.", 1, 3) is None


def test_predictions_are_judged_beside_the_data_and_silence_counts(
    examples: list[dataset.Example], tmp_path: Path
) -> None:
    first, second = examples[:2]
    told = {"story_id": first.story_id, "prediction": f"<think>\n{first.chain_of_thought}\n</think>\nIt rained."}
    (tmp_path / "told.jsonl").write_text(json.dumps(told) + "\n")

    one, two = given.of_predictions(tmp_path / "told.jsonl", [first, second])
    assert (one.story, one.other, two.story) == ("It rained.", first.story, "")
    with pytest.raises(DataError, match="answers none of the 1 stories"):
        given.of_predictions(tmp_path / "told.jsonl", [second])
    planted = given.with_faults(examples, 2, seed=0)
    assert [candidate.planted for candidate in planted] == [*judging.COUNTS] * 2
    assert len({candidate.name for candidate in planted}) == 8


@pytest.mark.server
def test_a_tiny_model_judges(vllm_server: VllmServer, frames: tuple[bytes, ...], tmp_path: Path) -> None:
    one = replace(candidate("one", "Mara waves."), images=frames[:1], other="Leo waves.")
    config = AuthoringConfig(endpoint=vllm_server.url, model=vllm_server.name, max_tokens=1400, temperature=0)
    budget = Budget(config)
    found = judging.report([one], judging.judge(Author(config, tmp_path, budget), [one]))
    assert found.judged + sum(found.refused.values()) == 4
    assert budget.total().prompt_tokens > 1000
