"""The tiny base model: what it learns from, and its tokenizer."""

import random
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from storyreason import chat, sample
from storyreason.format import answer
from storyreason.format.boxes import Box
from storyreason.sample import exam, tower
from storyreason.sample.base import BACK, about, batch_of, vocabulary_texts
from storyreason.sample.drawing import Frame, PlacedEntity
from storyreason.sample.exam import copy_accuracy, place_accuracy
from storyreason.sample.lessons import (
    COUNT,
    HEAD,
    Lesson,
    Turn,
    a_lesson,
    a_list,
    a_long_lesson,
    a_round,
    boxes_as_json,
    locate,
    read_boxes,
)
from storyreason.sample.recall import a_text
from storyreason.sample.staging import in_reading_order
from storyreason.sample.tokenizer import make_processor
from storyreason.sample.world import COLOURS, NAMES, Look, Region, Thing, backgrounds, looks

PROCESSOR = make_processor(vocabulary_texts())
LESSONS = [a_lesson(count, random.Random(count)) for count in (1, 2, 7)]


def test_lessons_show_only_people_and_backgrounds_of_the_train_split() -> None:
    luck = random.Random(1)
    for frame in (frame for _ in range(200) for frame in a_lesson(4, luck).frames):
        assert (frame.place, frame.light) in backgrounds("train")
        assert {one.entity for one in frame.placed if isinstance(one.entity, Look)} <= set(looks("train"))


def test_lessons_hold_no_analysis_and_no_id_or_tag_of_the_format() -> None:
    luck = random.Random(2)
    drawn = [
        lesson
        for _ in range(150)
        for lesson in (a_lesson(3, luck), a_long_lesson(3, luck, listed=True), a_text(200, luck))
    ]
    texts = [text for lesson in drawn for turn in lesson.turns for text in turn]
    for foreign in ("gd", "---", "##", "char1", "obj1", "lm1", "bg1", "think", "Introduction", "Protagonist"):
        assert not any(foreign in text for text in texts), foreign


def test_lessons_of_looking_up_have_words_as_text_rows_and_marks_have_them() -> None:
    """` Leo`, `Leo` and `>Leo` are different tokens."""
    luck = random.Random(3)
    texts = " ".join(text for _ in range(500) for turn in a_text(400, luck).turns for text in turn)
    tokens = set(PROCESSOR.tokenizer.tokenize(texts))
    for name in (name for names in NAMES.values() for name in names):
        assert {name, f"Ġ{name}", f">{name}"} & set(PROCESSOR.tokenizer.get_vocab()) <= tokens, name


def test_boxes_in_json_read_back() -> None:
    frame = LESSONS[2].frames[0]
    told = locate(frame, "image 1").answer
    assert sorted(read_boxes(told)) == sorted((one.box, str(one.entity)) for one in frame.placed)
    assert read_boxes(boxes_as_json([])) == []
    assert read_boxes("A woman waved.") == []


def test_labels_are_the_answers_only() -> None:
    lesson = LESSONS[1]

    batch = batch_of([lesson], PROCESSOR)

    learnt = batch["labels"][batch["labels"] != -100]
    assert PROCESSOR.tokenizer.decode(learnt) == "".join(f"{turn.answer}<|im_end|>" for turn in lesson.turns)


def test_each_token_of_a_picture_and_of_an_answer_says_which_picture() -> None:
    lesson = a_lesson(3, random.Random(4))
    batch = batch_of([lesson], PROCESSOR)

    pictures, ids = batch["about"][0], batch["input_ids"][0]
    of_images = pictures[ids == PROCESSOR.image_token_id]
    assert of_images.tolist() == [0] * 28 + [1] * 28 + [2] * 28
    # The positions that predict an answer's tokens belong to the picture that the question names.
    said = pictures[:-1][batch["labels"][0][1:] != -100]
    asked = [about(turn, [0])[0] for turn in lesson.turns]
    assert sorted(asked) == [0, 1, 2]
    assert [number for number, _ in groupby(said.tolist())] == asked
    assert about(Turn("Describe the image.", "Nobody was there."), [0, 6]) == [0, 0]


def test_an_answer_about_each_picture_in_turn_is_about_each_picture_in_turn() -> None:
    luck = random.Random(5)
    frames = a_lesson(3, luck).frames
    kinds = set()
    for _ in range(60):
        turns = a_round(frames, luck)
        for turn in turns:
            heads = [*HEAD.finditer(turn.answer)]
            begins = [head.start() for head in heads]
            assert [int(head[1]) for head in heads] == [1, 2, 3]
            assert about(turn, [*begins, begins[1] - 1]) == [0, 1, 2, 0]
        kinds.add((HEAD.sub("", turns[0].answer).count("bbox_2d") > 0, "\n\n" in turns[0].answer, turns[0].answer[:3]))
        for line, frame in zip(HEAD.sub("", turns[1].answer).splitlines(), frames, strict=True):
            assert sorted(line.removesuffix(".").split(", ")) == sorted(str(one.entity) for one in frame.placed)
    assert len(kinds) > 10


@pytest.mark.parametrize("seed", range(12))
def test_a_list_has_the_people_then_the_things_then_the_distance_of_each_picture(seed: int) -> None:
    luck = random.Random(seed)
    frames = a_lesson(4, luck).frames
    (turn,) = a_list(frames, luck)
    heads = [*HEAD.finditer(turn.answer)]
    parts = HEAD.split(turn.answer)[2::2]

    assert [int(head[1]) for head in heads] == [1, 2, 3, 4]
    for part, frame in zip(parts, frames, strict=True):
        rows = [line for line in part.splitlines() if line.count(",") == 3]
        placed = sorted(
            in_reading_order(frame.placed),
            key=lambda one: (not isinstance(one.entity, Look), not isinstance(one.entity, Thing)),
        )
        for row, one in zip(rows, placed, strict=True):
            assert str(one.entity) in row
            assert row.removesuffix(" |").endswith(f" {one.box}")
    assert about(turn, [heads[2].end(), len(turn.answer) - 1]) == [2, 3]


def test_boxes_that_stand_under_another_frames_number_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(late: int) -> Any:
        def answers(_model: Any, _processor: Any, lessons: list[Lesson], tokens: int) -> list[str]:
            rows = [[boxes_as_json(list(frame.placed)) for frame in lesson.frames] for lesson in lessons]
            lines = [[f"Picture {number + late}: {row}" for number, row in enumerate(shown, 1)] for shown in rows]
            return ["\n".join(of_one) for of_one in lines]

        return answers

    monkeypatch.setattr(exam, "answers", told(late=0))
    assert exam.box_f1_in_turn(None, None, 8) == 1.0  # type: ignore[arg-type]
    monkeypatch.setattr(exam, "answers", told(late=1))
    assert exam.box_f1_in_turn(None, None, 8) < 0.3  # type: ignore[arg-type]
    monkeypatch.setattr(exam, "answers", lambda *_: ["Nobody was there."] * 8)
    assert exam.box_f1_in_turn(None, None, 8) == 0.0  # type: ignore[arg-type]


def test_how_many_pictures_there_are_is_asked_before_an_answer_tells_and_is_about_none_of_them() -> None:
    luck = random.Random(7)
    first = [(count, a_long_lesson(count, luck).turns[0]) for count in range(1, 8) for _ in range(10)]
    counted = [(count, turn) for count, turn in first if turn.question in COUNT]
    assert {count for count, _ in counted} == set(range(1, 8))
    assert all(turn.answer == str(count) and about(turn, [0, 1]) == [-100, -100] for count, turn in counted)


def test_what_is_given_of_an_answer_is_read_and_not_learnt() -> None:
    lesson = Lesson((), (Turn("Fill it.", "", "Shelf 1: K7"), Turn("What is there?", "red ball", "Shelf 1: ")))

    batch = batch_of([lesson], PROCESSOR)

    decode = PROCESSOR.tokenizer.decode
    assert "Shelf 1: K7" in decode(batch["input_ids"][0])
    assert decode(batch["labels"][batch["labels"] != -100]).strip() == "red ball<|im_end|>"


def test_each_token_of_a_text_says_where_the_number_of_its_place_stands() -> None:
    text = "# Room 1\nK7: red ball\n# Room 2\nK3: kite\n\n<room 2> <p K3>kite</p>"
    lesson = Lesson((), (Turn("Fill each room, then visit it.", text), Turn("How many are they?", "2")))

    batch = batch_of([lesson], PROCESSOR)

    decode, ids, places = PROCESSOR.tokenizer.decode, batch["input_ids"][0], batch["about"][0].tolist()
    of_a_place = [place for place in places if place != -100]
    assert [decode(ids[place]) for place, _ in groupby(of_a_place)] == ["1", "2", "2"]
    told = {place: decode(ids[[at for at, one in enumerate(places) if one == place]]) for place in of_a_place}
    assert list(told.values()) == ["1\nK7: red ball\n# Room ", "2\nK3: kite\n\n<room ", "2> <p K3>kite</p><|im_end|>"]


def test_frames_of_other_sizes_keep_their_size_and_hold_their_boxes() -> None:
    luck = random.Random(6)
    sizes = set()
    for _ in range(60):
        lesson = a_long_lesson(1, luck)
        (frame,) = lesson.frames
        width, height = frame.size
        sizes.add(frame.size)
        assert all(0 <= box.x1 < box.x2 <= width and 0 <= box.y1 < box.y2 <= height for box in boxes_of(frame))
        told = [box for turn in lesson.turns for box, _ in read_boxes(HEAD.sub("", turn.answer))]
        assert set(told) <= set(boxes_of(frame))
        grid = batch_of([lesson], PROCESSOR)["image_grid_thw"].tolist()
        assert grid == [[1, height // 14, width // 14]]
    assert (196, 112) in sizes
    assert len(sizes) > 3
    assert {size for size in sizes if not 0.7 <= size[0] / 196 <= 1.6} == set()


def boxes_of(frame: Frame) -> list[Box]:
    return [one.box for one in frame.placed]


def guessing(late: int = 0, always: str = "") -> Any:
    """A model that knows the text but is `late` tokens late, or that guesses the same token always."""

    def model(input_ids: Any, **_: Any) -> SimpleNamespace:
        ahead = torch.roll(input_ids, late - 1, dims=1)
        if always:
            ahead = torch.full_like(ahead, PROCESSOR.tokenizer.convert_tokens_to_ids(always))
        return SimpleNamespace(logits=torch.nn.functional.one_hot(ahead, len(PROCESSOR.tokenizer)))

    model.eval = lambda: None  # type: ignore[attr-defined]
    model.device = torch.device("cpu")  # type: ignore[attr-defined]
    return model


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("back", BACK)
def test_copy_accuracy_counts_the_tokens_that_are_repeated(back: int, marked: bool) -> None:
    assert copy_accuracy(guessing(), PROCESSOR, back, 8, marked) == 1.0
    assert copy_accuracy(guessing(late=1), PROCESSOR, back, 8, marked) < 0.2


def test_place_accuracy_counts_the_keys_that_stand_at_the_place() -> None:
    assert place_accuracy(guessing(), PROCESSOR, 8) == 1.0
    assert place_accuracy(guessing(late=1), PROCESSOR, 8) == 0.0  # a letter, not a number
    assert 0.1 < place_accuracy(guessing(always="3"), PROCESSOR, 8) < 0.6


def test_the_tower_is_asked_what_is_in_each_cell() -> None:
    man, drum = Look("man", "red", "grey", "top hat"), Thing("drum", "blue")
    placed = (PlacedEntity(man, Box(28, 42, 56, 112), "wave"), PlacedEntity(drum, Box(154, 84, 182, 112)))
    place, light = backgrounds("train")[0]
    frame = Frame(place, light, 49, 1, (*placed, PlacedEntity(Region("sea"), Box(0, 28, 196, 49))))

    spots = [dict(zip(tower.QUESTIONS, spot, strict=True)) for spot in tower.answers(frame)]

    assert len(spots) == 4 * 7
    body = spots[3 * 7 + 1]  # the lowest row, second column
    assert (body["x1"], body["y1"], body["x2"], body["y2"]) == (4, 6, 8, 16)
    assert (body["row"], body["column"]) == (3, 1)
    assert body["colour"] == list(COLOURS).index("red")
    assert body["pose"] == 1
    for column in (5, 6):  # the drum covers two cells
        assert spots[3 * 7 + column]["x1"] == 154 // 7
        assert spots[3 * 7 + column]["hair"] == tower.NOTHING
    assert spots[1 * 7 + 4]["x2"] == 196 // 7  # the sea
    assert spots[0]["x1"] == tower.NOTHING  # the sky


@given(st.text())
def test_any_text_can_be_encoded(text: str) -> None:
    import unicodedata

    normal = unicodedata.normalize("NFC", text)  # Qwen's tokenizer composes accents
    assert PROCESSOR.tokenizer.decode(PROCESSOR.tokenizer(text)["input_ids"]) == normal


def test_tokenizer_keeps_tags_takes_digits_one_by_one_and_comes_back_from_its_folder(tmp_path: Path) -> None:
    from transformers import AutoProcessor

    PROCESSOR.save_pretrained(tmp_path)
    tokenizer = AutoProcessor.from_pretrained(tmp_path).tokenizer
    for example in sample.examples("test", films=2):
        text = answer.join(example.chain_of_thought, example.story)
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert ids == PROCESSOR.tokenizer(text)["input_ids"]
        assert len(ids) < 2000
    assert [tokenizer.decode(token) for token in tokenizer("105,7")["input_ids"]] == list("105,7")


def test_frames_keep_their_size_and_become_28_tokens_each() -> None:
    from storyreason.sample.drawing import draw

    prompt = PROCESSOR.apply_chat_template(chat.messages(2, "Tell me."), add_generation_prompt=True)
    batch = PROCESSOR(images=[draw(frame) for frame in LESSONS[1].frames], text=[prompt], return_tensors="pt")
    assert batch["image_grid_thw"].tolist() == [[1, 8, 14], [1, 8, 14]]
    image = PROCESSOR.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert int((batch["input_ids"] == image).sum()) == 2 * 28
