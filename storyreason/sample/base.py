"""The tiny base model, of Qwen2.5-VL's own class: its size, its batches, its score and its folder."""

import json
import math
import os
import random
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyreason import pictures, runs
from storyreason.chat import REQUESTS, SYSTEM_PROMPT
from storyreason.format import analysis, boxes, story
from storyreason.sample.drawing import draw, encode
from storyreason.sample.lessons import Lesson, a_lesson, locate, read_boxes
from storyreason.sample.plot import tales
from storyreason.sample.telling import tell
from storyreason.sample.world import Part
from storyreason.scoring.paper import greedy

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

FRAMES_PER_STEP = 16


def vocabulary_texts(seed: int = 0) -> list[str]:
    """The texts that the tokenizer is trained on: films with a seed of their own, lessons, the chat's fixed texts."""
    luck = random.Random(seed)
    texts = [SYSTEM_PROMPT, *REQUESTS, *(f"Picture {number}: " for number in range(1, 10))] * 20
    for tale in tales("train", seed=1_000_000 + seed, films=200):
        told_analysis, told_story = tell(tale)
        texts.append(f"<think>\n{analysis.render(told_analysis)}\n</think>\n{story.render(told_story)}")
    for _ in range(1000):
        texts += [text for turn in a_lesson(2, luck).turns for text in turn]
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
    """Lessons as one padded batch: the processor's output, `labels` on the answers only, and `pictures`.

    `pictures` [lessons, tokens] says for each image token which picture it is of, for each token of an answer which
    picture it is about, from 0; -100 for the rest.
    """
    import torch

    images, texts = [], []
    for lesson in lessons:
        # Through JPEG and back, as the data set's frames are.
        images += [pictures.rgb(encode(draw(frame))) for frame in lesson.frames]
        content: list[dict[str, str]] = [{"type": "image"} for _ in lesson.frames]
        messages: list[dict[str, Any]] = []
        for number, (question, answer) in enumerate(lesson.turns):
            text = {"type": "text", "text": question}
            messages.append({"role": "user", "content": [*content, text] if number == 0 else [text]})
            messages.append({"role": "assistant", "content": answer})
        texts.append(processor.apply_chat_template(messages))
    batch = processor(images=images, text=texts, padding=True, padding_side="right", return_tensors="pt")
    labels = batch["labels"] = torch.full_like(batch["input_ids"], -100)
    numbers = batch["pictures"] = torch.full_like(labels, -100)
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
                last = ids.index(end, first) + 1
                labels[row, first:last] = batch["input_ids"][row, first:last]
                # The first token of an answer is predicted at the token before it.
                numbers[row, first - 1 : last - 1] = asked_about(next(turns)[0])
    return dict(batch)


def asked_about(question: str) -> int:
    """Which picture a question is about, from 0: `Describe image 3.` is about 2, `Describe the image.` about 0."""
    named = re.search(r"\bimage ([0-9])", question)
    return int(named[1]) - 1 if named else 0


def box_f1(
    model: "Qwen2_5_VLForConditionalGeneration",
    processor: "Qwen2_5_VLProcessor",
    frames: int = 64,
    part: Part = "test",
    together: int = 1,
) -> float:
    """F1 over all boxes at IoU 0.5, matched greedily by IoU, on frames with people and backgrounds of `part`.

    `together` frames stand in each prompt and the question is about the middle one.
    """
    import torch

    luck = random.Random(f"evaluation/{part}/{together}")
    model.eval()
    matched = found = wanted = 0
    for _ in range(0, frames, 16):
        lessons, truths = [], []
        for _ in range(16):
            lesson = a_lesson(together, luck, part)
            middle = lesson.frames[together // 2]
            where = "the image" if together == 1 else f"image {together // 2 + 1}"
            lessons.append(Lesson(lesson.frames, (locate(middle, where),)))
            truths.append([placed.box for placed in middle.placed])
        for answer, truth in zip(answers(model, processor, lessons), truths, strict=True):
            candidates = [box for box, _ in read_boxes(answer)]
            matched += len(greedy(boxes.iou_matrix(candidates, truth)))
            found, wanted = found + len(candidates), wanted + len(truth)
    torch.manual_seed(0)
    return 2 * matched / (found + wanted)


def answers(model: Any, processor: "Qwen2_5_VLProcessor", lessons: list[Lesson]) -> list[str]:
    """The model's greedy answers to the first question of each lesson."""
    import torch

    pictures = [draw(frame) for lesson in lessons for frame in lesson.frames]
    texts = []
    for lesson in lessons:
        content = [*({"type": "image"} for _ in lesson.frames), {"type": "text", "text": lesson.turns[0][0]}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        texts.append(processor.apply_chat_template(messages, add_generation_prompt=True))
    batch = processor(images=pictures, text=texts, padding=True, padding_side="left", return_tensors="pt")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        tokens = model.generate(**batch, max_new_tokens=320)
    told = tokens[:, batch["input_ids"].shape[1] :]
    return list(processor.batch_decode(told, skip_special_tokens=True))


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
    lines = [
        "# Tiny base model of the sample world",
        "",
        f"A `Qwen2_5_VLForConditionalGeneration` of {parameters / 1e6:.1f} million parameters. It names and locates the",
        "people, things, landmarks and backgrounds of a frame in Qwen's JSON style, and describes a frame in a few",
        "sentences. It was trained on random frames, up to seven unrelated ones in a prompt. It never saw an analysis, an",
        "ID, a tag, a story, or any person or background of the test split.",
        "",
        f"- steps of {FRAMES_PER_STEP} frames: {facts['steps']}",
    ]
    if "box_f1" in facts:
        lines.append(f"- box F1 at IoU 0.5 on unseen frames (unseen people and backgrounds): {facts['box_f1']:.3f}")
    if "box_f1_third_of_five" in facts:
        lines.append(f"- the same for the third of five frames in one prompt: {facts['box_f1_third_of_five']:.3f}")
    if "seconds" in facts:
        lines.append(f"- made in {facts['seconds'] / 60:.0f} minutes by `storyreason sample base`")
    return "\n".join(lines) + "\n"
