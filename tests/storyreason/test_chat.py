from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from storyreason import chat, dataset, model
from storyreason.errors import DataError, ModelError
from storyreason.pictures import open_frames
from storyreason.training.examples import collate


@pytest.fixture(scope="module")
def processor(tiny_base: Path) -> Any:
    return model.load_processor(str(tiny_base))


def frames(example: dataset.Example) -> Sequence[Any]:
    return open_frames(example.images, example.story_id)


def test_there_are_the_ten_published_requests() -> None:
    assert len(set(chat.REQUESTS)) == 10
    assert chat.REQUESTS[0] == ""
    assert chat.SYSTEM_PROMPT.startswith("You are an AI storyteller that can analyze sequences of images")
    assert chat.SYSTEM_PROMPT.endswith("to show your reasoning process before writing the final story.")


def test_images_or_the_request_come_first() -> None:
    request = chat.REQUESTS[1]
    kinds = [part["type"] for part in chat.messages(2, request)[1]["content"]]
    assert kinds == ["image", "image", "text"]
    kinds = [part["type"] for part in chat.messages(2, request, images_first=False)[1]["content"]]
    assert kinds == ["text", "image", "image"]
    assert [part["type"] for part in chat.messages(2, "")[1]["content"]] == ["image", "image"]


@pytest.mark.parametrize("images_first", [True, False])
@pytest.mark.parametrize("request_", chat.REQUESTS[:2])
def test_the_joined_parts_are_what_the_processor_makes_of_the_whole(
    processor: Any, tiny_examples: list[dataset.Example], images_first: bool, request_: str
) -> None:
    # Given an example
    example = tiny_examples[0]
    answer = f"<think>\n{example.chain_of_thought}\n</think>\n{example.story}"
    encoder = chat.Encoder(processor, images_first)
    # When it is made from its parts
    ours = encoder.join(encoder.pictures(frames(example)), request_, encoder.answer(answer))
    # Then it equals the documented way: chat template and processor at once
    turns = [
        *chat.messages(frames(example), request_, images_first),
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    text = processor.apply_chat_template(turns, tokenize=False).rstrip("\n")
    theirs = processor(text=[text], images=frames(example), return_tensors="pt")
    assert ours.input_ids.tolist() == theirs["input_ids"][0].tolist()
    assert ours.mm_token_type_ids.tolist() == theirs["mm_token_type_ids"][0].tolist()
    assert (ours.pixel_values == theirs["pixel_values"]).all()
    assert (ours.image_grid_thw == theirs["image_grid_thw"]).all()
    encoder.check(frames(example), answer)


def test_special_tokens_in_a_text_are_encoded_as_the_characters_that_they_consist_of(processor: Any) -> None:
    encoder = chat.Encoder(processor)
    text = "<think>\n</think>\nShe wrote <|im_end|> and <|image_pad|>."

    tokens = encoder.answer(text)

    assert tokens.count(processor.tokenizer.eos_token_id) == 1 and tokens[-1] == processor.tokenizer.eos_token_id
    assert processor.image_token_id not in tokens
    assert processor.tokenizer.decode(tokens) == f"{text}<|im_end|>"
    # What comes after it is not affected: the tokenizer keeps the setting of the last call.
    assert processor.tokenizer("<|im_end|>")["input_ids"] == [processor.tokenizer.eos_token_id]


def test_a_request_with_a_special_token_is_refused(tiny_base: Path, tiny_examples: list[dataset.Example]) -> None:
    from storyreason.generation import GenerationConfig
    from storyreason.generation.inprocess import InProcess

    asked = GenerationConfig(request="Tell <|image_pad|> it")
    with pytest.raises(DataError, match=r"The request contains <\|image_pad\|>"):
        InProcess(tiny_base).session(tiny_examples[0].images, asked)


def test_the_loss_is_taken_over_the_answer_or_over_all_but_image_tokens(
    processor: Any, tiny_examples: list[dataset.Example]
) -> None:
    example = tiny_examples[1]
    encoder = chat.Encoder(processor)
    pictures, answer = encoder.pictures(frames(example)), encoder.answer("<think>\n</think>\nA story.")
    on_answer = encoder.join(pictures, chat.REQUESTS[2], answer)
    learnt = on_answer.labels[on_answer.labels != chat.IGNORED]
    assert processor.tokenizer.decode(learnt) == "<think>\n</think>\nA story.<|im_end|>"
    on_all = encoder.join(pictures, chat.REQUESTS[2], answer, loss="all")
    image = on_all.input_ids == processor.image_token_id
    assert ((on_all.labels == chat.IGNORED) == image).all()
    assert image.sum() == sum(encoder.image_tokens(dataset.sizes(example)))


def test_lengths_are_known_without_decoding(processor: Any, tiny_examples: list[dataset.Example]) -> None:
    example = tiny_examples[2]
    encoder = chat.Encoder(processor, images_first=False)
    made = encoder.join(encoder.pictures(frames(example)), chat.REQUESTS[3], [])
    assert encoder.prompt_length(encoder.image_tokens(dataset.sizes(example)), chat.REQUESTS[3]) == len(made.input_ids)


def test_a_batch_is_padded_and_keeps_its_token_types(processor: Any, tiny_examples: list[dataset.Example]) -> None:
    encoder = chat.Encoder(processor)
    long, short = (
        encoder.join(encoder.pictures(frames(example)), "", encoder.answer(text))
        for example, text in zip(tiny_examples, ("a much longer answer " * 200, "short"), strict=False)
    )
    batch = collate([long, short], pad=7)
    assert batch["input_ids"].shape == batch["mm_token_type_ids"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"][1].sum() == len(short.input_ids)
    assert (batch["input_ids"][1, len(short.input_ids) :] == 7).all()
    assert (batch["labels"][1, len(short.input_ids) :] == chat.IGNORED).all()
    assert len(batch["pixel_values"]) == len(long.pixel_values) + len(short.pixel_values)
    assert "attention_mask" not in collate([short], pad=7)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "chat template is not supported"),
        # As in reasoning models: the thinking is removed from earlier answers.
        ("{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'][0]['text'].split('</think>')[1] }}"
         "<|im_end|>{% endif %}{% endfor %}", "chat template is not supported"),
        ("{{ raise_exception('no system turn') }}", "cannot render"),
    ],
)  # fmt: skip
def test_another_chat_template_is_refused(tiny_base: Path, template: str, found: str) -> None:
    processor = model.load_processor(str(tiny_base))
    processor.chat_template = template
    with pytest.raises(ModelError, match=found):
        chat.Encoder(processor)


def test_a_picture_that_does_not_decode_is_named() -> None:
    with pytest.raises(DataError, match="Story red-car-1, image 1 does not decode"):
        open_frames([b"no picture"], "red-car-1")
