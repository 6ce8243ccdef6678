"""Makes the tiny base model: Qwen2.5-VL's real class, small, taught on single frames to see, name and place."""

import json
import logging
import math
import os
import random
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyreason import runs
from storyreason.chat import REQUESTS, SYSTEM_PROMPT
from storyreason.format import analysis, boxes, story
from storyreason.sample import tower
from storyreason.sample.drawing import draw, encode
from storyreason.sample.lessons import Lesson, a_lesson, locate, read_boxes
from storyreason.sample.plot import tales
from storyreason.sample.telling import tell
from storyreason.sample.tokenizer import make_processor
from storyreason.sample.world import Part
from storyreason.scoring.paper import greedy

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

log = logging.getLogger(__name__)

FRAMES_PER_STEP = 16
LEARNING_RATE = 1e-3
WARMUP_STEPS = 100
POINTING_LAYER = 2
POINTING = 0.5
"""Weight of a second loss beside that of the answers: a linear layer, thrown away afterwards, must read from this layer
which picture each token is of or about. With answers alone "image 3" still meant any of the pictures after 1,750 steps."""
MOST_PICTURES = 8


@dataclass(frozen=True, slots=True)
class BaseProgress:
    """One line of the log: mean loss since the last one, and box F1 on frames with unseen people and backgrounds."""

    step: int
    steps: int
    loss: float
    seconds: float
    f1: float | None = None
    tower: float | None = None
    """The vision tower's share of right answers, once, before the first step."""

    def __str__(self) -> str:
        if self.tower is not None:
            return f"vision tower: {self.tower:.1%} of the answers about spots right  {self.seconds:.0f} s"
        f1 = "" if self.f1 is None else f"  box F1 on unseen frames {self.f1:.3f}"
        return f"step {self.step}/{self.steps}  loss {self.loss:.4f}  {self.seconds:.0f} s{f1}"


def vocabulary_texts(seed: int = 0) -> list[str]:
    """What the tokenizer learns its pieces from: films of a seed of their own, lessons, the chat's fixed texts."""
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
    """Lessons as one padded batch: what the processor gives, `labels` on the answers alone, and `pictures`.

    `pictures` [lessons, tokens] says for each image token which picture it is of, for each token of an answer which
    picture it is about, from 0; -100 for the rest.
    """
    import io

    import torch
    from PIL import Image

    pictures, texts = [], []
    for lesson in lessons:
        # Through JPEG and back, as the data set's frames are.
        pictures += [Image.open(io.BytesIO(encode(draw(frame)))).convert("RGB") for frame in lesson.frames]
        content: list[dict[str, str]] = [{"type": "image"} for _ in lesson.frames]
        messages: list[dict[str, Any]] = []
        for number, (question, answer) in enumerate(lesson.turns):
            text = {"type": "text", "text": question}
            messages.append({"role": "user", "content": [*content, text] if number == 0 else [text]})
            messages.append({"role": "assistant", "content": answer})
        texts.append(processor.apply_chat_template(messages))
    batch = processor(images=pictures, text=texts, padding=True, padding_side="right", return_tensors="pt")
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
                # Not the first token of an answer, but the one before it, is what foretells the first.
                numbers[row, first - 1 : last - 1] = asked_about(next(turns)[0])
    return dict(batch)


def asked_about(question: str) -> int:
    """Which picture a question is about, from 0: `Describe image 3.` is about 2, `Describe the image.` about 0."""
    named = re.search(r"\bimage ([0-9])", question)
    return int(named[1]) - 1 if named else 0


def _lessons(luck: random.Random, done: float, frames: int) -> list[Lesson]:
    """About `frames` frames. `done` is how much of the making is behind us, from 0 to 1.

    From easy to hard, or nothing is learnt: one figure to a frame, then two, then up to four; one frame to a lesson,
    then up to seven.
    """
    figures = 1 if done < 0.05 else 2 if done < 0.1 else 4
    count = 1 if done < 0.12 else luck.choice((1, 1, 2, 4, 6, 7))
    return [a_lesson(count, luck, figures=figures) for _ in range(max(1, round(frames / count)))]


def train(
    out: Path,
    steps: int,
    seed: int = 0,
    processes: int = 2,
    report_every: int = 50,
    tower_steps: int = 800,
    evaluated: int = 256,
) -> Iterator[BaseProgress]:
    """Teach a new base for `steps` steps and leave it in `out`, after each 250 steps as it is so far.

    Its figures at the end come of `evaluated` frames, those before of an eighth of them.

    The vision tower learns alone first (`tower.py`), then all of it learns to answer.

    Each process has one thread and its share of a step's frames, and the gradients are averaged: processes wait for
    each other once a step, threads in every operation, which a machine with other work makes slow. Matrix products
    run in bfloat16 (autocast), weights and optimizer in float32.
    """
    import tempfile

    import torch.multiprocessing

    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        others = [
            context.Process(
                target=_follow, args=(meeting, rank, processes, steps, seed, report_every, tower_steps), daemon=True
            )
            for rank in range(1, processes)
        ]
        for other in others:
            other.start()
        try:
            yield from _train(meeting, 0, processes, steps, seed, report_every, tower_steps, out, evaluated)
        finally:
            for other in others:
                other.join(timeout=10)
                other.kill()


def _follow(
    meeting: str, rank: int, processes: int, steps: int, seed: int, report_every: int, tower_steps: int
) -> None:
    for _ in _train(meeting, rank, processes, steps, seed, report_every, tower_steps, out=None):
        pass


def _train(
    meeting: str,
    rank: int,
    processes: int,
    steps: int,
    seed: int,
    report_every: int,
    tower_steps: int,
    out: Path | None,
    evaluated: int = 0,
) -> Iterator[BaseProgress]:
    """What each process does. The first one, which has `out`, evaluates, saves and reports."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes, timeout=timedelta(minutes=10))
    processor = make_processor(vocabulary_texts(seed))
    model = new_model(processor, seed)
    began = time.monotonic()
    right = tower.teach(
        model,
        processor,
        tower_steps,
        lambda step: random.Random(f"tower/{seed}/{step}/{rank}"),
        lambda parameters: _average_gradients(parameters, processes),
    )
    if out is not None:
        yield BaseProgress(0, steps, 0.0, time.monotonic() - began, tower=right)
    seeing = list(model.model.visual.parameters())
    rest = [parameter for name, parameter in model.named_parameters() if ".visual." not in name]
    pointer = torch.nn.Linear(model.lm_head.in_features, MOST_PICTURES)
    rest += pointer.parameters()
    groups: list[dict[str, Any]] = [{"params": seeing, "lr": 0.3 * LEARNING_RATE}, {"params": rest}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    losses: list[float] = []
    for step in range(1, steps + 1):
        model.train()
        luck = random.Random(f"base/{seed}/{step}/{rank}")
        lessons = _lessons(luck, step / steps, FRAMES_PER_STEP // processes)
        batch = batch_of(lessons, processor)
        pictures = batch.pop("pictures")
        with torch.autocast("cpu", torch.bfloat16):
            told = model(**batch, output_hidden_states=True)
        (told.loss + POINTING * _pointing_loss(pointer, told.hidden_states[POINTING_LAYER], pictures)).backward()
        _average_gradients([*model.parameters(), *pointer.parameters()], processes)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(told.loss.item())
        if out is not None and (step % report_every == 0 or step == steps):
            f1 = None
            progress = BaseProgress(step, steps, sum(losses) / len(losses), time.monotonic() - began)
            if step % (5 * report_every) == 0 or step == steps:
                frames = evaluated if step == steps else evaluated // 8
                f1 = box_f1(model, processor, frames)
                facts = {"steps": step, "of": steps, "box_f1": f1, "loss": progress.loss, "seconds": progress.seconds}
                facts["box_f1_third_of_five"] = box_f1(model, processor, frames // 2, together=5)
                save(model, processor, out, facts)
            yield replace(progress, f1=f1)
            losses = []
    dist.destroy_process_group()


def _pointing_loss(pointer: Any, hidden: Any, pictures: Any) -> Any:
    """How badly the pointer reads from the hidden states of a layer which picture a token is of or about."""
    import torch

    asked = pictures != -100
    seen = torch.nn.functional.layer_norm(hidden[asked].float(), hidden.shape[-1:])
    return torch.nn.functional.cross_entropy(pointer(seen), pictures[asked])


def _average_gradients(parameters: Iterable[Any], processes: int) -> None:
    import torch
    import torch.distributed as dist

    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = (flat / processes).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 2 % of the learning rate."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.02 + 0.49 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)))


def box_f1(
    model: "Qwen2_5_VLForConditionalGeneration",
    processor: "Qwen2_5_VLProcessor",
    frames: int = 64,
    part: Part = "test",
    together: int = 1,
) -> float:
    """F1 over all boxes at IoU 0.5, pairs taken greedily by IoU, on frames with people and backgrounds of `part`.

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
    """What the model says, greedily, to the first question of each lesson."""
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
    """Model folder with processor, figures and card: written beside `out`, then put in its place."""
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
        f"A `Qwen2_5_VLForConditionalGeneration` of {parameters / 1e6:.1f} million parameters. It sees, names and",
        "places people, things, landmarks and backgrounds of a frame in Qwen's JSON style, and describes it in a few",
        "sentences. It learnt from frames drawn at random, several unrelated ones in a prompt at most. It never saw an",
        "analysis, an ID, a tag, a story, or any person or background of the test split.",
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
