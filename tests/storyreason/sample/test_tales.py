"""The sample data: the same bytes each time, true to their frames, and nothing of the test split appears in training."""

import re
from collections import Counter
from pathlib import Path

import pytest

from storyreason import dataset, sample
from storyreason.format import answer, rules, story
from storyreason.format.story import Mention
from storyreason.sample.plot import Tale, tales
from storyreason.sample.telling import tell
from storyreason.sample.world import Look, backgrounds, looks

TEST_TALES = list(tales("test", sample.SEED))
TRAIN_TALES = list(tales("train", sample.SEED))
ALL = TEST_TALES + TRAIN_TALES


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(tmp_path: Path) -> None:
    for folder, seed in (("one", 7), ("two", 7), ("other", 8)):
        dataset.write(sample.examples("test", seed, films=3), tmp_path / folder, "test")

    (one,), (two,), (other,) = (dataset.shards(tmp_path / name, "test") for name in ("one", "two", "other"))
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != other.read_bytes()


def test_more_films_leave_the_earlier_ones_as_they_were() -> None:
    few, more = list(sample.examples("train", films=1)), list(sample.examples("train", films=2))
    assert more[:2] == few
    assert len(more) == 4


def test_there_are_enough_stories_of_the_wanted_kind() -> None:
    assert len(TRAIN_TALES) >= 240
    assert len(TEST_TALES) >= 60
    assert len({tale.story_id for tale in ALL}) == len(ALL)
    assert {len(tale.shots) for tale in ALL} == {5, 6, 7}
    assert {len(tale.ids) for tale in ALL} == {2, 3, 4, 5}
    kinds = Counter(identity[:2] for tale in ALL for identity in tale.ids.values())
    assert min(kinds[kind] for kind in ("ch", "ob", "lm", "bg")) > 50


def test_entities_come_and_go() -> None:
    def always_there(tale: Tale) -> bool:
        return all({placed.entity for placed in shot.frame.placed} == set(tale.ids) for shot in tale.shots)

    assert not any(always_there(tale) for tale in ALL)


def test_no_sentence_stands_twice_in_a_story() -> None:
    for tale in ALL:
        told = story.without_tags(story.render(tell(tale)[1]))
        sentences = Counter(re.findall(r"[^.]+[.]", " ".join(told.split())))
        assert max(sentences.values()) == 1, (tale.story_id, sentences.most_common(1))


def test_the_test_split_shares_no_film_person_or_background_with_training() -> None:
    def people(part: list[Tale]) -> set[Look]:
        return {look for tale in part for look in tale.film.people}

    def places(part: list[Tale]) -> set[tuple[str, str]]:
        return {(tale.film.place.name, tale.film.light.name) for tale in part}

    assert not {tale.film.name for tale in TEST_TALES} & {tale.film.name for tale in TRAIN_TALES}
    assert not people(TEST_TALES) & people(TRAIN_TALES)
    assert not places(TEST_TALES) & places(TRAIN_TALES)
    # ... but each coat, hair, hat, place and light of the test split appears in training in other combinations
    for attribute in ("sex", "coat", "hair", "hat"):
        seen = {getattr(look, attribute) for look in looks("train")}
        assert {getattr(look, attribute) for look in looks("test")} <= seen
    assert {place for place, _ in backgrounds("test")} <= {place for place, _ in backgrounds("train")}
    assert {light for _, light in backgrounds("test")} <= {light for _, light in backgrounds("train")}


@pytest.mark.parametrize("part", [TRAIN_TALES[::8], TEST_TALES], ids=["train", "test"])
def test_every_answer_breaks_no_rule_and_parses_back_to_the_same(part: list[Tale]) -> None:
    for tale in part:
        told_analysis, told_story = tell(tale)

        read = answer.read(answer.render(told_analysis, told_story))

        assert rules.check(read, [(196, 112)] * len(tale.shots)) == [], tale.story_id
        assert read.analysis is not None
        assert [section.image for section in read.analysis.sections] == list(range(1, len(tale.shots) + 1))


def test_tables_hold_exactly_what_is_drawn() -> None:
    for tale in ALL:
        told_analysis, _ = tell(tale)
        for shot, section in zip(tale.shots, told_analysis.sections, strict=True):
            drawn = {(tale.ids[placed.entity], placed.box) for placed in shot.frame.placed}
            rows = [(row.id, row.box) for row in section.characters] + [(row.id, row.box) for row in section.objects]
            assert set(rows) == drawn
            assert len(rows) == len(drawn)


def test_the_story_mentions_in_each_image_all_that_is_there_and_nothing_else() -> None:
    for tale in ALL:
        _, told_story = tell(tale)
        for shot, passage in zip(tale.shots, told_story.passages, strict=True):
            mentions = [part for part in passage.parts if isinstance(part, Mention)]
            assert {name for mention in mentions for name in mention.ids} == {
                tale.ids[placed.entity] for placed in shot.frame.placed
            }


def test_a_person_keeps_look_name_and_pronouns_throughout_a_story() -> None:
    for tale in ALL:
        told_analysis, told_story = tell(tale)
        rows = [row for section in told_analysis.sections for row in section.characters]
        assert len({(row.id, row.name, row.description) for row in rows}) == len({row.id for row in rows})
        woman = {row.id: row.description.startswith("A woman") for row in rows}
        for mention in (part for passage in told_story.passages for part in passage.parts if isinstance(part, Mention)):
            word = mention.text.lower()
            if word in ("she", "her", "he", "him"):
                assert woman[mention.ids[0]] == (word in ("she", "her")), tale.story_id
