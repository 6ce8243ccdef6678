import random
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from storyreason import chat, dataset, model
from storyreason.errors import TrainingError
from storyreason.training import Job, TrainingConfig, process
from storyreason.training.examples import StoryDataset, in_another_order, refuse_long


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


@pytest.mark.parametrize("loss", ["answer", "all"])
def test_of_a_story_with_shuffled_pictures_only_the_story_is_learnt(
    tiny_examples: list[dataset.Example], encoder: chat.Encoder, loss: Literal["answer", "all"]
) -> None:
    config = TrainingConfig(loss=loss)
    plain = StoryDataset(tiny_examples, range(4), encoder, config)
    made = StoryDataset(tiny_examples, range(4), encoder, config, shuffled=0.5)

    items = [(epoch, index) for epoch in range(20) for index in range(4)]
    shuffled = [item for item in items if made.is_shuffled(item)]

    assert 20 < len(shuffled) < 60  # of 80
    assert {index for _, index in shuffled} == {0, 1, 2, 3}  # another half in each epoch
    for item in items:
        there, usual = made[item], plain[item]
        assert torch.equal(there.input_ids, usual.input_ids)
        assert (there.labels[1:] != chat.IGNORED).sum() == made.loss_tokens(item)
        if item not in shuffled:
            assert torch.equal(there.labels, usual.labels)
            assert torch.equal(there.pixel_values, usual.pixel_values)
            continue
        learnt = encoder.tokenizer.decode(there.labels[there.labels != chat.IGNORED])
        assert "</think>" not in learnt
        assert tiny_examples[item[1]].story.lstrip("\n<").startswith(learnt.lstrip("\n<")[:200])
        # each picture stands where another stood
        size = len(usual.pixel_values) // len(usual.image_grid_thw)
        before, after = usual.pixel_values.split(size), there.pixel_values.split(size)
        turn = next(turn for turn in range(len(before)) if torch.equal(after[turn], before[0]))
        assert turn
        assert all(torch.equal(one, after[(at + turn) % len(after)]) for at, one in enumerate(before))


def test_pictures_of_several_sizes_are_put_in_another_order_with_their_features() -> None:
    grids = torch.tensor([[1, 2, 4], [1, 4, 4], [1, 2, 2]])
    for scale in (1, 4):  # patches, and features of four patches each
        content = torch.repeat_interleave(torch.arange(3), grids.prod(dim=1) // scale)
        moved, sizes = in_another_order((content, grids), random.Random(1))
        assert (
            moved.tolist() == torch.repeat_interleave(moved.unique_consecutive(), sizes.prod(dim=1) // scale).tolist()
        )
        assert [int((moved == one).sum()) for one in range(3)] == (grids.prod(dim=1) // scale).tolist()
        assert not (sizes == grids).all()


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
    train, validation = process.split(many, job, encoder)
    # Then it is dropped, as one of many
    assert (train.dropped, validation.dropped) == ([], [length])
    assert len(train) + len(validation) == len(many) - 1
    # and too many of all are too many
    with pytest.raises(TrainingError, match=rf"of {len(many)} stories, more than 5%"):
        process.split(many, job.model_copy(update={"training": TrainingConfig(max_tokens=length // 2)}), encoder)


def test_the_first_frames_of_a_story_are_a_story(tiny_examples: list[dataset.Example], encoder: chat.Encoder) -> None:
    made = stories(tiny_examples, encoder, max_images=3)
    assert all(len(story.image_tokens) == 3 for story in map(made.story, range(len(made))))
    assert len(made[0, 0].image_grid_thw) == 3
    assert max(made.lengths) < min(stories(tiny_examples, encoder).lengths)
