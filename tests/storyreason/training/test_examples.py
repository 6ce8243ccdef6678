from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storyreason import chat, dataset, model
from storyreason.errors import TrainingError
from storyreason.training import Job, TrainingConfig, process
from storyreason.training.examples import StoryDataset, refuse_long


@pytest.fixture(scope="module")
def encoder(tiny_base: Path) -> chat.Encoder:
    return chat.Encoder(model.load_processor(str(tiny_base)), images_first=False)


def stories(examples: list[dataset.Example], encoder: chat.Encoder, **config: Any) -> StoryDataset:
    return StoryDataset(examples, range(len(examples)), encoder, TrainingConfig(**config))


def test_a_story_is_what_the_plan_says_it_is(tiny_examples: list[dataset.Example], encoder: chat.Encoder) -> None:
    made = stories(tiny_examples, encoder, seed=5)
    for item in [(0, 0), (1, 0), (7, 3)]:
        inputs = made[item]
        assert len(inputs.input_ids) == made.tokens(item) <= made.lengths[item[1]]
        assert (inputs.labels != chat.IGNORED).sum() == made.loss_tokens(item)
    on_all = stories(tiny_examples, encoder, loss="all")
    assert (on_all[0, 0].labels[1:] != chat.IGNORED).sum() == on_all.loss_tokens((0, 0))


def test_requests_change_with_epoch_and_seed_and_nothing_else(
    tiny_examples: list[dataset.Example], encoder: chat.Encoder
) -> None:
    made = stories(tiny_examples, encoder, seed=5)
    drawn = [made.request(epoch, 0) for epoch in range(200)]
    assert set(drawn) == set(chat.REQUESTS)
    again, other = (stories(tiny_examples, encoder, seed=seed) for seed in (5, 6))
    assert drawn == [again.request(epoch, 0) for epoch in range(200)]
    assert drawn != [other.request(epoch, 0) for epoch in range(200)]


def test_too_long_stories_are_dropped_and_counted_never_truncated(
    tiny_examples: list[dataset.Example], encoder: chat.Encoder
) -> None:
    # Given many stories, one of them the longest
    lengths = stories(tiny_examples, encoder).lengths
    longest = max(lengths)
    few = [example for example, length in zip(tiny_examples, lengths, strict=True) if length < longest]
    many = [*few * 4, tiny_examples[lengths.index(longest)]]
    # When the limit is just below it
    made = stories(many, encoder, max_tokens=longest - 1)
    # Then it is dropped, and the others are complete
    assert made.dropped == [longest]
    assert len(made) == len(many) - 1
    refuse_long((made,), longest - 1)


def test_when_too_many_are_too_long_a_sufficient_limit_is_named(
    tiny_examples: list[dataset.Example], encoder: chat.Encoder
) -> None:
    lengths = sorted(stories(tiny_examples, encoder).lengths)
    cut = stories(tiny_examples, encoder, max_tokens=lengths[2])
    with pytest.raises(TrainingError, match=f"{len(cut.dropped)} of 16 stories, .*set it to {lengths[-1]} "):
        refuse_long((cut,), lengths[2])
    refuse_long((stories(tiny_examples, encoder, max_tokens=lengths[-1]),), lengths[-1])


def test_the_share_of_too_long_stories_counts_training_and_validation_together(
    tiny_examples: list[dataset.Example], encoder: chat.Encoder, tmp_path: Path
) -> None:
    # Given many stories, and the longest of all is one of two to validate on
    held_out = dataset.validation_ids([one.story_id for one in tiny_examples])
    sized = zip(tiny_examples, stories(tiny_examples, encoder).lengths, strict=True)
    *shorter, (longest, length) = sorted(sized, key=lambda one: (one[0].story_id in held_out, one[1]))
    others = [one for one, size in shorter if size < length]
    assert longest.story_id in held_out
    renamed = [replace(one, story_id=f"{one.story_id}{again}") for one in others for again in range(3)]
    many = [*others, *renamed, longest]
    # When the limit is just below it
    config = TrainingConfig(max_tokens=length - 1)
    job = Job(base="b", data=tmp_path / "data", work=tmp_path, data_md5="a", training=config)
    train, validation = process._split(many, job, encoder)
    # Then it is dropped, as one of many
    assert (train.dropped, validation.dropped) == ([], [length])
    assert len(train) + len(validation) == len(many) - 1
    # and too many of all are too many
    with pytest.raises(TrainingError, match=rf"of {len(many)} stories, more than 5%"):
        process._split(many, job.model_copy(update={"training": TrainingConfig(max_tokens=length // 2)}), encoder)


def test_the_first_frames_of_a_story_are_a_story(tiny_examples: list[dataset.Example], encoder: chat.Encoder) -> None:
    made = stories(tiny_examples, encoder, max_images=3)
    assert all(len(story.image_tokens) == 3 for story in map(made.story, range(len(made))))
    assert len(made[0, 0].image_grid_thw) == 3
    assert max(made.lengths) < min(stories(tiny_examples, encoder).lengths)
