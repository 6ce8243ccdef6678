"""The tiny base model, of Qwen2.5-VL's own class: its size, its batches and its folder."""

import itertools
import json
import math
import os
import random
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyreason import pictures, runs
from storyreason.chat import REQUESTS, SYSTEM_PROMPT
from storyreason.format import analysis, story
from storyreason.sample.drawing import draw, encode
from storyreason.sample.lessons import COUNT, HEAD, Lesson, Turn, a_lesson
from storyreason.sample.plot import tales
from storyreason.sample.recall import PLACE_HEAD
from storyreason.sample.telling import tell

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

FRAMES_PER_STEP = 16
BACK = (50, 200, 800)
"""Tokens: the distances at which copying is measured."""


def vocabulary_texts(seed: int = 0) -> list[str]:
    """The texts that the tokenizer is trained on: films with a seed of their own, lessons, the chat's fixed texts."""
    luck = random.Random(seed)
    texts = [SYSTEM_PROMPT, *REQUESTS, *(f"Picture {number}: " for number in range(1, 10))] * 20
    for tale in tales("train", seed=1_000_000 + seed, films=200):
        told_analysis, told_story = tell(tale)
        texts.append(f"<think>\n{analysis.render(told_analysis)}\n</think>\n{story.render(told_story)}")
    for _ in range(1000):
        texts += [text for turn in a_lesson(2, luck).turns for text in (turn.question, turn.answer)]
    return texts


def new_model(processor: "Qwen2_5_VLProcessor", seed: int = 0) -> "Qwen2_5_VLForConditionalGeneration":
    """Random weights. Heads of 64 for vLLM on a CPU; large weights because the model is tiny."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = processor.tokenizer
    special = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in (
        "endoftext", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")}  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": math.ceil(len(tokenizer) / 64) * 64,
            "hidden_size": 192,
            "intermediate_size": 576,
            "num_hidden_layers": 5,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [8, 12, 12]},
            "initializer_range": 0.06,
            "bos_token_id": None,
            "eos_token_id": special["im_end"],
            "pad_token_id": special["endoftext"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 2,
            "out_hidden_size": 192,
            "fullatt_block_indexes": [0, 1, 2, 3],
            "initializer_range": 0.06,
        },
        image_token_id=special["image_pad"],
        video_token_id=special["video_pad"],
        vision_start_token_id=special["vision_start"],
        vision_end_token_id=special["vision_end"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [special["im_end"], special["endoftext"]]
    model.generation_config.pad_token_id = special["endoftext"]
    model.generation_config.do_sample = False
    return model


def batch_of(lessons: list[Lesson], processor: "Qwen2_5_VLProcessor") -> dict[str, Any]:
    """Lessons as one padded batch: the processor's output, `labels` on what is learnt of the answers, and `about`.

    `about` [lessons, tokens] says for each image token which picture it is of, for each token of an answer which picture it
    is about, from 0; for an answer without pictures, which token has the number of the place that it is about (`recall.py`).
    -100 for the rest. The lessons have frames, or none of them has.
    """
    import torch

    # Through JPEG and back, as the data set's frames are.
    images = [pictures.rgb(encode(draw(frame))) for lesson in lessons for frame in lesson.frames]
    texts = []
    for lesson in lessons:
        content: list[dict[str, str]] = [{"type": "image"} for _ in lesson.frames]
        messages: list[dict[str, Any]] = []
        for number, turn in enumerate(lesson.turns):
            text = {"type": "text", "text": turn.question}
            messages.append({"role": "user", "content": [*content, text] if number == 0 else [text]})
            messages.append({"role": "assistant", "content": turn.given + turn.answer})
        texts.append(processor.apply_chat_template(messages))
    batch = processor(images=images or None, text=texts, padding=True, padding_side="right", return_tensors="pt")
    labels = batch["labels"] = torch.full_like(batch["input_ids"], -100)
    numbers = batch["about"] = torch.full_like(labels, -100)
    tokenizer = processor.tokenizer
    start, end, see = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<|vision_start|>"])
    assistant = tokenizer("assistant\n")["input_ids"]
    of_images = batch["input_ids"] == processor.image_token_id
    numbers[of_images] = ((batch["input_ids"] == see).cumsum(1) - 1)[of_images]
    for row, (lesson, ids) in enumerate(zip(lessons, batch["input_ids"].tolist(), strict=True)):
        turns = iter(lesson.turns)
        for at, token in enumerate(ids):
            first = at + 1 + len(assistant)
            if token == start and ids[at + 1 : first] == assistant:
                last, turn = ids.index(end, first) + 1, next(turns)
                offsets = token_offsets(tokenizer, ids[first:last])
                learnt = first + sum(end <= len(turn.given) for end in offsets[1:])
                if turn.answer:
                    labels[row, learnt:last] = batch["input_ids"][row, learnt:last]
                if lesson.frames:
                    # The first token of an answer is predicted at the token before it.
                    numbers[row, first - 1 : last - 1] = torch.tensor(about(turn, offsets))
                else:
                    for head, after in places(turn.given + turn.answer, offsets):
                        numbers[row, first + head : first + after] = first + head
    return dict(batch)


def token_offsets(tokenizer: Any, ids: list[int]) -> list[int]:
    """Where each token of an ASCII text begins: byte-level tokens have a character for each."""
    lengths = [len(token) for token in tokenizer.convert_ids_to_tokens(ids)]
    return list(itertools.accumulate(lengths[:-1], initial=0))


def about(turn: Turn, offsets: list[int]) -> list[int]:
    """Which picture, from 0, the answer is about at each offset; -100 if it is how many they are.

    What follows `Picture 3: ` or another head is about 2, the answer to `Describe image 3.` too, to `Describe the image.` 0.
    """
    if turn.question in COUNT:
        return [-100] * len(offsets)
    lines = [(line.start(), int(line[1]) - 1) for line in HEAD.finditer(turn.answer)]
    named = re.search(r"\bimage ([0-9])", turn.question)
    whole = [(0, int(named[1]) - 1 if named else 0)]
    return [max(place for place in lines or whole if place[0] <= offset)[1] for offset in offsets]


def places(text: str, offsets: list[int]) -> Iterator[tuple[int, int]]:
    """The token with the number of each place of a text, and where the tokens about that place end; from the token offsets."""
    numbers = [offsets.index(head.start(1)) for head in PLACE_HEAD.finditer(text)]
    yield from itertools.pairwise([*numbers, len(offsets)])


def save(model: Any, processor: Any, out: Path, facts: dict[str, Any]) -> None:
    """Write the model folder with processor, figures and card to a temporary folder, then move it to `out`."""
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    processor.save_pretrained(beside)
    runs.write_text(beside / "figures.json", json.dumps(facts, indent=2) + "\n")
    runs.write_text(beside / "README.md", _card(model, facts))
    runs.replace(out, beside)


def _card(model: Any, facts: dict[str, Any]) -> str:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    looks_back, read = "", ""
    if facts["text_tokens"]:
        looks_back = " It looks up what its text has said before."
        read = (
            f"- then steps of {facts['text_tokens']} tokens of random notes, lists and rows: {facts['reading_steps']}; of "
            f"both: {facts['both_steps']}; of frames, and of texts in every other: {facts['last_steps']}"
        )
    about = (
        f"A `Qwen2_5_VLForConditionalGeneration` of {parameters / 1e6:.1f} million parameters. It names and locates the people, "
        "things, landmarks and backgrounds of a frame in Qwen's JSON style, and describes a frame in a few sentences."
        f"{looks_back} It was trained on random frames, up to seven unrelated ones in a prompt. It never saw an analysis, an "
        "ID of the format, a tag, a story, or any person or background of the test split."
    )
    lines = [
        "# Tiny base model of the sample world",
        "",
        textwrap.fill(about, 100),
        "",
        f"- steps of {FRAMES_PER_STEP} frames: {facts['steps']}",
        *([read] if read else []),
        *([f"- unfinished: after step {facts['step']} of {facts['of']}"] if facts["step"] < facts["of"] else []),
        *(f"- {title}: {facts[name]:.3f}" for name, title in _FIGURES.items() if name in facts),
    ]
    if "seconds" in facts:
        lines.append(f"- made in {facts['seconds'] / 60:.0f} minutes by `storyreason sample base`")
    return "\n".join(lines) + "\n"


_FIGURES = {
    "box_f1": "box F1 at IoU 0.5 on unseen frames (unseen people and backgrounds)",
    "box_f1_third_of_five": "the same for the third of five frames in one prompt",
    "box_f1_in_turn": "the same for five frames told in one answer",
    "box_f1_other_sizes": "the same for frames of 0.75 to 1.5 times the size",
    **{f"copy_accuracy_{back}": f"copy accuracy at {back} tokens back (nonsense words)" for back in BACK},
    **{f"lookup_accuracy_{back}": f"names looked up from {back} tokens back" for back in BACK},
    "place_accuracy": "keys told of a place that stand there",
}
