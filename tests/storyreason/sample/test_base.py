"""The tiny base model: what it learns from, and its tokenizer."""

import random
from itertools import groupby
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from storyreason import chat, sample
from storyreason.format import answer
from storyreason.format.boxes import Box
from storyreason.sample import tower
from storyreason.sample.base import asked_about, batch_of, vocabulary_texts
from storyreason.sample.drawing import Frame, PlacedEntity
from storyreason.sample.lessons import a_lesson, boxes_as_json, locate, read_boxes
from storyreason.sample.tokenizer import make_processor
from storyreason.sample.world import COLOURS, Look, Region, Thing, backgrounds, looks

PROCESSOR = make_processor(vocabulary_texts())
LESSONS = [a_lesson(count, random.Random(count)) for count in (1, 2, 7)]


def test_lessons_show_only_people_and_backgrounds_of_the_train_split() -> None:
    luck = random.Random(1)
    for frame in (frame for _ in range(200) for frame in a_lesson(4, luck).frames):
        assert (frame.place, frame.light) in backgrounds("train")
        assert {one.entity for one in frame.placed if isinstance(one.entity, Look)} <= set(looks("train"))


def test_lessons_hold_no_table_no_id_no_tag() -> None:
    luck = random.Random(2)
    texts = [text for _ in range(300) for turn in a_lesson(3, luck).turns for text in turn]
    for foreign in ("|", "<", "##", "char1", "obj1", "lm1", "bg1", "think", "Introduction", "Protagonist"):
        assert not any(foreign in text for text in texts), foreign


def test_boxes_in_json_read_back() -> None:
    frame = LESSONS[2].frames[0]
    _, told = locate(frame, "image 1")
    assert sorted(read_boxes(told)) == sorted((one.box, str(one.entity)) for one in frame.placed)
    assert read_boxes(boxes_as_json([])) == []
    assert read_boxes("A woman waved.") == []


def test_labels_are_the_answers_only() -> None:
    lesson = LESSONS[1]

    batch = batch_of([lesson], PROCESSOR)

    learnt = batch["labels"][batch["labels"] != -100]
    assert PROCESSOR.tokenizer.decode(learnt) == "".join(f"{told}<|im_end|>" for _, told in lesson.turns)


def test_each_token_of_a_picture_and_of_an_answer_says_which_picture() -> None:
    lesson = a_lesson(3, random.Random(4))
    batch = batch_of([lesson], PROCESSOR)

    pictures, ids = batch["pictures"][0], batch["input_ids"][0]
    of_images = pictures[ids == PROCESSOR.image_token_id]
    assert of_images.tolist() == [0] * 28 + [1] * 28 + [2] * 28
    # The positions that predict an answer's tokens belong to the picture that the question names.
    about = pictures[:-1][batch["labels"][0][1:] != -100]
    asked = [asked_about(question) for question, _ in lesson.turns]
    assert sorted(asked) == [0, 1, 2]
    assert [number for number, _ in groupby(about.tolist())] == asked
    assert asked_about("Describe the image.") == 0


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
