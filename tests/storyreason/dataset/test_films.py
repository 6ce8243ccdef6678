"""The validation set is split by film, and adding films never moves other films."""

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storyreason import dataset
from storyreason.authoring.config import AuthoringConfig
from storyreason.dataset.dividing import by_film
from storyreason.dataset.films import TEST_SHARE, for_testing, place_for_test
from storyreason.errors import DataError

NAMES = st.lists(st.from_regex(r"[a-z]{1,8}-[0-9]", fullmatch=True), min_size=2, max_size=60, unique=True)


def _film(story_id: str) -> str:
    return story_id.rpartition("-")[0]


@given(NAMES)
def test_a_film_is_in_one_part_whole(story_ids: list[str]) -> None:
    chosen = dataset.validation_ids(story_ids)
    rest = set(story_ids) - chosen
    assert not {_film(one) for one in chosen} & {_film(one) for one in rest}
    several = len({_film(one) for one in story_ids}) > 1
    assert bool(chosen) == several
    assert rest


@pytest.mark.parametrize("story_ids", [["a2453-1", "b2453-1"], ["b2453-1", "b2453-2"]])
def test_films_that_would_all_be_chosen_leave_one_to_train_on(story_ids: list[str]) -> None:
    assert dataset.validation_ids(story_ids) == set(story_ids) & {"a2453-1"}


@given(st.permutations([f"film{number}-{k}" for number in range(20) for k in (1, 2)]))
def test_the_order_of_the_stories_does_not_matter(story_ids: list[str]) -> None:
    assert dataset.validation_ids(story_ids) == dataset.validation_ids(sorted(story_ids))


def test_about_five_percent_of_many_films_stay_chosen_when_more_films_join() -> None:
    few = [f"film{number}-1" for number in range(2000)]
    more = few + [f"new{number}-1" for number in range(2000)]
    chosen = dataset.validation_ids(few)
    assert 0.035 < len(chosen) / len(few) < 0.065
    assert dataset.validation_ids(more) & set(few) == chosen


def test_a_mapping_says_which_film_a_story_is_of(tmp_path: Path) -> None:
    (tmp_path / "films.json").write_text(json.dumps({"a": "one", "b": "one", "c": "two"}))
    mapping = dataset.film_mapping(tmp_path / "films.json")
    assert dataset.validation_ids(["a", "b", "c"], mapping) in ({"a", "b"}, {"c"})
    with pytest.raises(DataError, match="lacks 1 of 4 stories, starting with d"):
        dataset.validation_ids(["a", "b", "c", "d"], mapping)


@pytest.mark.parametrize("content", ["no json", "[1]", '{"a": 1}'])
def test_a_mapping_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "films.json").write_text(content)
    with pytest.raises(DataError, match=r"films\.json"):
        dataset.film_mapping(tmp_path / "films.json")


def test_ids_without_a_film_are_cut_by_story_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        chosen = dataset.validation_ids(["17", "18", "19"])
    assert len(chosen) == 1
    assert "split by story" in caplog.text


def test_more_films_never_move_others_between_training_and_test() -> None:
    assert AuthoringConfig().test_share == TEST_SHARE
    names = [f"film {number}" for number in range(200)]
    few, many = for_testing(names[:100], 0.15), for_testing(names, 0.15)
    assert few <= many and 15 < len(many) < 45
    assert for_testing(names[:1], 0.15) == frozenset()
    assert len(for_testing(names[:2], 0.01)) == 1 == len(for_testing(names[:2], 0.99))
    assert for_testing(names[:2], 0) == frozenset()


def test_a_card_claims_that_more_films_move_none_only_where_the_hash_alone_chooses() -> None:
    chosen = [film for film in map(str, range(100)) if place_for_test(film) < TEST_SHARE]
    others = [film for film in map(str, range(100)) if place_for_test(film) >= TEST_SHARE]
    for films_, firm in ((chosen[:1] + others[:1], True), (others[:2], False), (chosen[:2], False)):
        division = by_film({f"{film}-1": film for film in films_})
        assert division is not None and ("more films do not move others" in division.card("# Card\n")) is firm
