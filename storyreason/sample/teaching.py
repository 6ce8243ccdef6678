"""Trains the tiny base model on single frames, to see, name and locate what they show."""

import math
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from storyreason.sample import tower
from storyreason.sample.base import FRAMES_PER_STEP, batch_of, box_f1, new_model, save, vocabulary_texts
from storyreason.sample.lessons import Lesson, a_lesson
from storyreason.sample.tokenizer import make_processor

LEARNING_RATE = 1e-3
WARMUP_STEPS = 100
POINTING_LAYER = 2
POINTING = 0.5
"""Weight of an auxiliary loss: a linear probe, discarded after training, must read from this layer which picture each token
belongs to or is about. With the loss of the answers alone, "image 3" still meant any picture after 1,750 steps."""
MOST_PICTURES = 8


@dataclass(frozen=True, slots=True)
class BaseProgress:
    """One line of the log: the mean loss since the last one, and box F1 on frames with unseen people and backgrounds."""

    step: int
    steps: int
    loss: float
    seconds: float
    f1: float | None = None
    tower: float | None = None
    """The vision tower's accuracy, once, before the first step."""

    def __str__(self) -> str:
        if self.tower is not None:
            return f"vision tower: {self.tower:.1%} of the answers about grid cells correct  {self.seconds:.0f} s"
        f1 = "" if self.f1 is None else f"  box F1 on unseen frames {self.f1:.3f}"
        return f"step {self.step}/{self.steps}  loss {self.loss:.4f}  {self.seconds:.0f} s{f1}"


@dataclass(frozen=True, slots=True)
class Course:
    """The settings of one training of a base; the same in every process."""

    steps: int
    seed: int
    processes: int
    report_every: int
    tower_steps: int
    evaluated: int


def train(
    out: Path,
    steps: int,
    seed: int = 0,
    processes: int = 2,
    report_every: int = 50,
    tower_steps: int = 800,
    evaluated: int = 256,
) -> Iterator[BaseProgress]:
    """Train a new base for `steps` steps and save it to `out`, also after every 250 steps.

    The final figures are measured on `evaluated` frames, the earlier ones on an eighth of them.

    The vision tower is trained alone first (`tower.py`), then the whole model learns to answer.

    Each process has one thread and its share of a step's frames, and gradients are averaged. Processes wait for each
    other once per step, threads in every operation, which is slow on a busy machine. Matrix products run in bfloat16
    (autocast); weights and optimizer are float32.
    """
    import torch.multiprocessing

    course = Course(steps, seed, processes, report_every, tower_steps, evaluated)
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        others = [
            context.Process(target=_follow, args=(course, meeting, rank), daemon=True) for rank in range(1, processes)
        ]
        for other in others:
            other.start()
        try:
            yield from _train(course, meeting, 0, out)
        finally:
            for other in others:
                other.join(timeout=10)
                other.kill()


def _follow(course: Course, meeting: str, rank: int) -> None:
    for _ in _train(course, meeting, rank, out=None):
        pass


def _train(course: Course, meeting: str, rank: int, out: Path | None) -> Iterator[BaseProgress]:
    """The work of each process. The first one, which has `out`, evaluates, saves and reports."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=course.processes, timeout=timedelta(minutes=10)
    )
    processor = make_processor(vocabulary_texts(course.seed))
    model = new_model(processor, course.seed)
    began = time.monotonic()
    right = tower.teach(
        model,
        processor,
        course.tower_steps,
        lambda step: random.Random(f"tower/{course.seed}/{step}/{rank}"),
        lambda parameters: _average_gradients(parameters, course.processes),
    )
    if out is not None:
        yield BaseProgress(0, course.steps, 0.0, time.monotonic() - began, tower=right)
    learner = _Learner(model, processor, course)
    losses: list[float] = []
    for step in range(1, course.steps + 1):
        losses.append(learner.step(step, rank))
        if out is not None and (step % course.report_every == 0 or step == course.steps):
            progress = BaseProgress(step, course.steps, sum(losses) / len(losses), time.monotonic() - began)
            if step % (5 * course.report_every) == 0 or step == course.steps:
                progress = _saved(model, processor, out, course, progress)
            yield progress
            losses = []
    dist.destroy_process_group()


class _Learner:
    """The model with its optimizer, and the linear probe of the auxiliary loss."""

    def __init__(self, model: Any, processor: Any, course: Course) -> None:
        import torch

        self.model = model
        self.processor = processor
        self.course = course
        self.pointer = torch.nn.Linear(model.lm_head.in_features, MOST_PICTURES)
        seeing = list(model.model.visual.parameters())
        rest = [parameter for name, parameter in model.named_parameters() if ".visual." not in name]
        rest += self.pointer.parameters()
        groups: list[dict[str, Any]] = [{"params": seeing, "lr": 0.3 * LEARNING_RATE}, {"params": rest}]
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _rate(step, course.steps))

    def step(self, number: int, rank: int) -> float:
        """Optimizer step `number`, from 1, on this process' share of the frames. Returns the loss of the answers."""
        import torch

        course, model = self.course, self.model
        model.train()
        luck = random.Random(f"base/{course.seed}/{number}/{rank}")
        batch = batch_of(lessons(luck, number / course.steps, FRAMES_PER_STEP // course.processes), self.processor)
        pictures = batch.pop("pictures")
        with torch.autocast("cpu", torch.bfloat16):
            output = model(**batch, output_hidden_states=True)
        (
            output.loss + POINTING * pointing_loss(self.pointer, output.hidden_states[POINTING_LAYER], pictures)
        ).backward()
        _average_gradients([*model.parameters(), *self.pointer.parameters()], course.processes)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return float(output.loss.item())


def _saved(model: Any, processor: Any, out: Path, course: Course, progress: BaseProgress) -> BaseProgress:
    """Measure the model, save it to `out` with its figures, and add box F1 to the progress."""
    frames = course.evaluated if progress.step == course.steps else course.evaluated // 8
    f1 = box_f1(model, processor, frames)
    facts = {
        "steps": progress.step, "of": course.steps, "box_f1": f1, "loss": progress.loss, "seconds": progress.seconds,
    }  # fmt: skip
    facts["box_f1_third_of_five"] = box_f1(model, processor, frames // 2, together=5)
    save(model, processor, out, facts)
    return replace(progress, f1=f1)


def lessons(luck: random.Random, done: float, frames: int) -> list[Lesson]:
    """Lessons with about `frames` frames. `done` is the fraction of the training that is over.

    They go from easy to hard, without which the model learns nothing: one figure per frame, then two, then up to four; one
    frame per lesson, then up to seven.
    """
    figures = 1 if done < 0.05 else 2 if done < 0.1 else 4
    count = 1 if done < 0.12 else luck.choice((1, 1, 2, 4, 6, 7))
    return [a_lesson(count, luck, figures=figures) for _ in range(max(1, round(frames / count)))]


def pointing_loss(pointer: Any, hidden: Any, pictures: Any) -> Any:
    """The cross-entropy of the probe's guess, from a layer's hidden states, which picture a token belongs to or is about."""
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
