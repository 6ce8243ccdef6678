"""A data set is checked completely before use: a few bad examples are counted, many are an error."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from storyreason import chat, dataset, model, sample
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
    "no analysis": (lambda one: replace(one, chain_of_thought=""), "`chain_of_thought` is empty"),
    "no story": (lambda one: replace(one, story=""), "`story` is empty"),
    "no images": (lambda one: replace(one, images=()), "`images` is empty"),
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


@pytest.mark.parametrize(
    ("train", "test", "split"),
    [([], [], "train"), (TRAIN, [], "test"), ([], TEST, "train")],
    ids=["no", "train", "test"],
)
def test_a_data_set_without_stories_in_a_split_is_refused(
    train: list[Example], test: list[Example], split: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"has no stories in its {split} split"):
        dataset.check(_write(tmp_path, train, test))


def test_a_data_set_whose_few_test_stories_are_all_bad_is_refused(tmp_path: Path) -> None:
    bad = replace(TEST[0], images=(b"", *TEST[0].images[1:]))
    with pytest.raises(DataError, match="no story of the test split can be used: test story"):
        dataset.check(_write(tmp_path, _many(120), [bad]))


def test_stories_without_an_id_are_bad_and_are_not_taken_for_doubles(tmp_path: Path) -> None:
    nameless = [replace(one, story_id="") for one in _many(2)]
    with pytest.raises(DataError, match=r"2 of 12 stories are bad.*`story_id` is empty"):
        dataset.check(_write(tmp_path, [*nameless, *TRAIN]))


@pytest.fixture(scope="module")
def encoder(tiny_base: Path) -> chat.Encoder:
    return chat.Encoder(model.load_processor(str(tiny_base)))


def test_text_that_the_base_treats_as_special_is_named_and_usable(encoder: chat.Encoder, tmp_path: Path) -> None:
    odd = replace(TRAIN[3], story=TRAIN[3].story.replace("</gdi>", "<|image_pad|><|im_end|></gdi>", 1))
    folder = _write(tmp_path, [*TRAIN[:3], odd])

    report = dataset.check(folder, encoder)

    assert report.bad == ()
    assert dict(report.special) == {"<|im_end|>": (odd.story_id,), "<|image_pad|>": (odd.story_id,)}
    assert f"1 stories contain <|im_end|>, which the base treats as special ({odd.story_id} first)" in report.markdown()
    assert dataset.check(folder).special == {}  # without a base there is nothing to say


def test_a_picture_that_the_base_cannot_take_is_bad_for_this_base_alone(
    encoder: chat.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storyreason.imagefiles.MAX_RATIO", 1000)  # another base may take less than any picture has
    file = io.BytesIO()
    Image.new("RGB", (4000, 10)).save(file, "PNG")
    thin = replace(TRAIN[0], images=(TRAIN[0].images[0], file.getvalue(), *TRAIN[0].images[2:]))

    bad = dataset.inspect(thin, encoder).bad("train")

    assert bad is not None
    assert (bad.image, "the base model cannot take a picture of 4000 x 10 pixels" in bad.reason) == (2, True)
    assert dataset.inspect(thin).bad("train") is None
