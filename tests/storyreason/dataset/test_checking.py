"""A data set is checked completely before use: a few bad examples are counted, many are an error."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from storyreason import dataset, sample
from storyreason.dataset import Example
from storyreason.errors import DataError

TRAIN = list(sample.examples("train", films=4))
TEST = list(sample.examples("test", films=1))


def _write(folder: Path, train: Sequence[Example], test: Sequence[Example] = TEST) -> Path:
    dataset.write(train, folder, "train")
    dataset.write(test, folder, "test")
    return folder


def _many(count: int) -> list[Example]:
    """Copies with unique IDs."""
    return [replace(TRAIN[number % len(TRAIN)], story_id=f"film{number}-1") for number in range(count)]


def test_the_sample_data_has_no_fault(tmp_path: Path) -> None:
    report = dataset.check(_write(tmp_path, TRAIN))

    assert report.bad == ()
    assert report.broken_rules == {}
    assert report.shared_films == ()
    assert report.stories == {"train": 8, "test": 2}
    assert report.frames["train"] == sum(len(example.images) for example in TRAIN)
    assert report.sizes == {(196, 112): sum(report.frames.values())}
    card = report.markdown()
    assert "8 + 2 stories (train + test)" in card
    assert "| characters per frame |" in card


BROKEN: dict[str, tuple[Callable[[Example], Example], str]] = {
    "picture": (lambda one: replace(one, images=(one.images[0], one.images[1][:900], *one.images[2:])),
                "image 2: the picture does not decode"),
    "no picture": (lambda one: replace(one, images=(b"", *one.images[1:])), "image 1: the picture does not decode"),
    "count": (lambda one: replace(one, frame_count=9), "frame_count is 9"),
    "analysis": (lambda one: replace(one, chain_of_thought="Once upon a time."), "answer-unreadable"),
    "section": (lambda one: replace(one, chain_of_thought=one.chain_of_thought.replace("## Image 3\n", "")),
                "image-sections"),
    "box": (lambda one: replace(one, chain_of_thought=one.chain_of_thought.replace(",112 |", ",wide |")),
            "box-unreadable"),
    "story": (lambda one: replace(one, story=one.story.replace("<gdi image2>", "<gdi image12>")), "story-images"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_data_set_with_too_many_bad_examples_names_story_and_fault(kind: str, tmp_path: Path) -> None:
    break_, fault = BROKEN[kind]
    victim = next(one for one in TRAIN if ",112 |" in one.chain_of_thought)
    folder = _write(tmp_path, [break_(one) if one is victim else one for one in TRAIN])

    with pytest.raises(DataError) as refused:
        dataset.check(folder)

    assert "1 of 10 stories are bad, more than 1%" in str(refused.value)
    assert f"train story {victim.story_id}" in str(refused.value)
    assert fault in str(refused.value)


def test_one_bad_example_in_a_hundred_is_counted_and_shown(tmp_path: Path) -> None:
    examples = _many(120)
    examples[7] = replace(examples[7], images=(*examples[7].images[:3], b"\xff\xd8 cut", *examples[7].images[4:]))

    report = dataset.check(_write(tmp_path, examples))

    assert [(bad.split, bad.story_id, bad.image) for bad in report.bad] == [("train", "film7-1", 4)]
    assert "- train story film7-1, image 4: the picture does not decode" in report.markdown()
    assert "1 bad" in report.summary()


def test_a_flaw_in_a_story_is_counted_by_rule_and_refuses_nothing(tmp_path: Path) -> None:
    flawed = replace(TRAIN[0], story=TRAIN[0].story.replace("<gdo char1>", "<gdo char77>"))

    report = dataset.check(_write(tmp_path, [flawed, *TRAIN[1:]]))

    assert report.bad == ()
    assert report.broken_rules["id-unknown"] == 1
    assert "| `id-unknown` | 1 |" in report.markdown()


def test_a_story_id_that_is_used_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"Story {TRAIN[0].story_id} is in train and again in test"):
        dataset.check(_write(tmp_path, TRAIN, [TRAIN[0]]))


def test_a_film_in_both_splits_is_shown(tmp_path: Path) -> None:
    film = TRAIN[0].story_id.rpartition("-")[0]
    report = dataset.check(_write(tmp_path, TRAIN, [*TEST, replace(TRAIN[0], story_id=f"{film}-3")]))
    assert report.shared_films == (film,)
    assert "1 films are in both splits" in report.markdown()


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no stories"):
        dataset.check(_write(tmp_path, [], []))
