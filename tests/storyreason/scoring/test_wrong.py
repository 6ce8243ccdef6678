"""What a model is shown in the controls that ask it again."""

import io
from dataclasses import replace

import pytest

from storyreason import dataset, pictures, sample
from storyreason.scoring import control
from storyreason.scoring.wrong import wrong


@pytest.fixture(scope="module")
def stories() -> list[dataset.Example]:
    return list(sample.examples("test", films=4))


def test_another_films_frames_are_those_of_the_pairing(stories: list[dataset.Example]) -> None:
    pairs = control.pairing({one.story_id: len(one.images) for one in stories})
    by_id = {one.story_id: one for one in stories}

    shown = wrong("other-film", stories)

    assert 0 < len(shown) < len(stories)
    assert {one.story_id: one.instead for one in shown} == pairs
    assert all(one.images == by_id[pairs[one.story_id]].images for one in shown)


def test_every_frame_stands_at_another_place(stories: list[dataset.Example]) -> None:
    shown = wrong("shuffled", stories)

    assert len(shown) == len(stories)
    for one, story in zip(shown, stories, strict=True):
        assert sorted(one.images) == sorted(story.images)
        assert all(a != b for a, b in zip(one.images, story.images, strict=True))
        assert [int(place) - 1 for place in one.instead.split()] == list(one.order)
    assert len({one.order for one in shown if len(one.order) == 5}) > 1
    assert [one.order for one in wrong("shuffled", stories[::-1])] == [one.order for one in shown[::-1]]


def test_a_story_of_one_frame_has_no_other_order(stories: list[dataset.Example]) -> None:
    assert wrong("shuffled", [replace(stories[0], images=stories[0].images[:1])]) == []


def test_grey_frames_have_the_sizes_of_the_storys_and_nothing_in_them(stories: list[dataset.Example]) -> None:
    (shown, *_) = wrong("grey", stories)

    assert [pictures.size(image) for image in shown.images] == dataset.sizes(stories[0])
    assert {pictures.rgb(image).getextrema() for image in shown.images} == {((128, 128),) * 3}
    assert shown.instead == "grey"


def test_frames_of_another_size_are_brought_to_that_of_the_place(stories: list[dataset.Example]) -> None:
    # Given a film in which each frame is narrower than the one before
    narrow = [pictures.rgb(image) for image in stories[0].images]
    made = []
    for number, picture in enumerate(narrow):
        file = io.BytesIO()
        picture.resize((100 - number, 50)).save(file, "PNG")
        made.append(file.getvalue())
    example = replace(stories[0], images=tuple(made))

    (shown,) = wrong("shuffled", [example])

    assert [pictures.size(image) for image in shown.images] == dataset.sizes(example)
    assert len(set(shown.images) - set(example.images)) == len(made)
