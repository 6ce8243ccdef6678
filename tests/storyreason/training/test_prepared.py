"""Stories are prepared once per data version and settings; unusable ones are left out and named."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storyreason import chat, dataset, model, runs
from storyreason.errors import DataError
from storyreason.format.analysis import AnalysisParser
from storyreason.training import Job, TrainingConfig, process
from storyreason.training.examples import StoryDataset
from storyreason.training.prepared import Prepared, prepare

CONFIG = TrainingConfig()


@pytest.fixture(scope="module")
def encoder(tiny_base: Path) -> chat.Encoder:
    return chat.Encoder(model.load_processor(str(tiny_base)), images_first=False)


def never() -> Iterator[dataset.Example]:
    raise AssertionError("the data was read again")
    yield


def test_stories_on_disk_equal_those_in_memory_and_are_prepared_once(
    encoder: chat.Encoder, tiny_examples: list[dataset.Example], tmp_path: Path
) -> None:
    made = prepare(tmp_path, tiny_examples, encoder, CONFIG, data="a version")
    again = prepare(tmp_path, never(), encoder, CONFIG, data="a version")
    inside = Prepared.of(tiny_examples, encoder, CONFIG)
    assert len(made) == len(again) == len(inside) == len(tiny_examples)
    for one, other, third, example in zip(made, again, inside, tiny_examples, strict=True):
        assert one.story_id == other.story_id == third.story_id == example.story_id
        assert one.image_tokens == other.image_tokens == third.image_tokens
        assert one.pictures == other.pictures == third.pictures
        assert len(one.pictures) == len(example.images)
        assert np.array_equal(one.answer, other.answer) and np.array_equal(one.answer, third.answer)
    assert np.array_equal(made.digests, inside.digests)


def test_another_version_or_setting_is_prepared_again_and_so_is_an_incomplete_one(
    encoder: chat.Encoder, tiny_examples: list[dataset.Example], tmp_path: Path
) -> None:
    prepare(tmp_path, tiny_examples, encoder, CONFIG, data="a version")
    # Settings that do not affect tokens change nothing
    prepare(tmp_path, never(), encoder, TrainingConfig(mode="full", seed=3, max_tokens=4000), data="a version")
    for changed in ({"data": "another"}, {"data": "a version", "stories": 3}):
        with pytest.raises(AssertionError, match="read again"):
            prepare(tmp_path, never(), encoder, CONFIG, **changed)
    for settings in ({"max_images": 2}, {"drop_unmentioned_objects": True}, {"boxes": "thousandths"}):
        with pytest.raises(AssertionError, match="read again"):
            prepare(tmp_path, never(), encoder, TrainingConfig(**settings), data="a version")
    (whole,) = (manifest.parent for manifest in tmp_path.glob(f"*/{runs.MANIFEST}"))
    (whole / runs.MANIFEST).unlink()
    assert len(prepare(tmp_path, tiny_examples, encoder, CONFIG, data="a version")) == len(tiny_examples)


def test_a_story_with_another_picture_is_another_story(
    encoder: chat.Encoder, tiny_examples: list[dataset.Example]
) -> None:
    one, *others = tiny_examples[:3]
    other = replace(one, images=(one.images[1], *one.images[1:]))
    before, after = (Prepared.of([first, *others], encoder, CONFIG).digests for first in (one, other))
    assert (before == after).all(axis=1).tolist() == [False, True, True]


BROKEN: dict[str, tuple[Callable[[dataset.Example], dataset.Example], str]] = {
    "no answer": (lambda one: replace(one, chain_of_thought="", story=""), "`chain_of_thought` is empty"),
    "no story": (lambda one: replace(one, story=""), "`story` is empty"),
    "frames and sections": (lambda one: replace(one, images=one.images[:-1], frame_count=None),
                            "The analysis has sections for images 1, 2"),
    "picture": (lambda one: replace(one, images=(one.images[0][:700], *one.images[1:])),
                "image 1: the picture does not decode"),
}  # fmt: skip


def with_one_broken(examples: Iterable[dataset.Example], kind: str) -> tuple[list[dataset.Example], str]:
    found = list(examples)
    found[5] = BROKEN[kind][0](found[5])
    return found, found[5].story_id


@pytest.mark.parametrize("kind", BROKEN)
def test_an_example_that_cannot_be_used_is_left_out_and_named(
    encoder: chat.Encoder, tiny_examples: list[dataset.Example], kind: str
) -> None:
    examples, broken = with_one_broken(tiny_examples, kind)
    made = Prepared.of(examples, encoder, CONFIG)
    (bad,) = made.bad
    assert f"train story {broken}" in str(bad) and BROKEN[kind][1] in str(bad)
    # and the other stories are unchanged
    stories = StoryDataset(examples, range(len(made)), encoder, CONFIG, made)
    assert [stories.story(index).story_id for index in range(len(stories))] == [
        one.story_id for one in examples if one.story_id != broken
    ]
    assert stories[0, 5].image_grid_thw.shape[0] == len(examples[6].images)
    words = encoder.tokenizer.decode(stories.story(5).answer)
    assert examples[6].story in words


def test_a_training_refuses_many_that_cannot_be_used(
    encoder: chat.Encoder, tiny_examples: list[dataset.Example], tmp_path: Path
) -> None:
    examples, broken = with_one_broken(tiny_examples, "no story")
    dataset.write(examples, tmp_path / "data", "train")
    job = Job(base="b", data=tmp_path / "data", work=tmp_path / "work", training=CONFIG)
    with pytest.raises(DataError, match=rf"1 of 16 stories are bad, more than 1%: train story {broken}.*Fix or remove"):
        process.split(dataset.load(job.data, "train"), job, encoder)


def test_a_story_is_parsed_once(
    encoder: chat.Encoder, tiny_examples: list[dataset.Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    start = AnalysisParser.__init__

    def begin(self: AnalysisParser, first_line: int = 1) -> None:
        begun.append(first_line)
        start(self, first_line)

    monkeypatch.setattr(AnalysisParser, "__init__", begin)
    settings = TrainingConfig(max_images=2, drop_unmentioned_objects=True)
    assert len(Prepared.of(tiny_examples, encoder, settings)) == len(tiny_examples) == len(begun)
