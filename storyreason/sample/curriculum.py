"""What the tiny base model is taught, step by step: lessons from easy to hard, in batches that other processes may draw."""

import os
import random
from dataclasses import dataclass
from typing import Any

from storyreason.sample import tower
from storyreason.sample.base import FRAMES_PER_STEP, batch_of
from storyreason.sample.lessons import Lesson, a_lesson, a_long_lesson, a_round
from storyreason.sample.recall import a_text

Batch = dict[str, Any]
"""What `batch_of` makes."""
TEXT_SIZES = (128, 256, 512, 512, 1024, 1024, 1536)
"""Tokens of a text lesson; those of a step have one size. A story looks back as far as 800 tokens: with 1,024 at most, and
mostly less, 20 % of nonsense words' tokens were repeated right from there after 330 steps of both; with these, 34 % after 400."""


@dataclass(frozen=True, slots=True)
class Course:
    """The settings of one training of a base; the same in every process."""

    steps: int
    """Steps of frames alone."""
    text_tokens: int
    reading_steps: int
    """Steps of texts alone, after those of frames; 0 without texts."""
    both_steps: int
    """Steps of texts and frames, after those; 0 without texts."""
    last_steps: int
    """Steps of frames, half of which have texts too, at the end; 0 without texts."""
    seed: int
    processes: int
    report_every: int
    tower_steps: int
    evaluated: int
    device: str

    @property
    def total(self) -> int:
        """All steps but those of the tower."""
        return self.steps + self.reading_steps + self.both_steps + self.last_steps


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of each step, by number from 1, for one process: those without frames, those with frames."""

    processor: Any
    course: Course
    rank: int

    def __getitem__(self, number: int) -> list[Batch]:
        return [batch_of(lot, self.processor) for lot in self._lots(number)]

    def _lots(self, number: int) -> list[list[Lesson]]:
        course = self.course
        luck = random.Random(f"base/{course.seed}/{number}/{self.rank}")
        frames, tokens = FRAMES_PER_STEP // course.processes, course.text_tokens // course.processes
        if number <= course.steps:
            return [lessons(luck, number / course.steps, frames)]
        # The same sizes in every process, so that none waits for another.
        shared = random.Random(f"sizes/{course.seed}/{number}")
        read_alone = number <= course.steps + course.reading_steps
        read = texts(luck, shared, tokens, easy=read_alone)
        if read_alone:
            return [read]
        last = number > course.total - course.last_steps
        seen = long_lessons(luck, shared, frames, last) if number % 2 else lessons(luck, 1.0, frames)
        return [seen] if last and number % 2 else [read, seen]


@dataclass(frozen=True, slots=True)
class Views:
    """The batches of the vision tower's own steps."""

    processor: Any
    course: Course
    rank: int

    def __getitem__(self, number: int) -> Batch:
        return tower.batch_of(random.Random(f"tower/{self.course.seed}/{number}/{self.rank}"), self.processor)


def drawn(batches: Any, done: int, steps: int, device: str) -> Any:
    """The batches of the steps after `done` in turn. Where a GPU trains, the other cores draw them ahead."""
    import torch
    from torch.utils.data import DataLoader

    workers = 0 if device == "cpu" else max(1, len(os.sched_getaffinity(0)) - 1)
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(done + 1, steps + 1),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        generator=torch.Generator(),  # a loader takes its seed from torch's own otherwise
    )


def lessons(luck: random.Random, done: float, frames: int) -> list[Lesson]:
    """Lessons with about `frames` frames. `done` is the fraction of the training that is over.

    They go from easy to hard, without which the model learns nothing: one figure per frame, then two, then up to four; one
    frame per lesson, then up to seven, with a question about each; then half of these in one answer. A model that was asked
    about each alone found the fourth of seven (box F1 0.87), and lost count in an answer about all (0.26).
    """
    figures = 1 if done < 0.05 else 2 if done < 0.1 else 4
    count = 1 if done < 0.12 else luck.choice((1, 1, 2, 4, 6, 7))
    sizes = done >= 0.3
    drawn = [a_lesson(count, luck, figures=figures, other_sizes=sizes) for _ in range(max(1, round(frames / count)))]
    if count == 1 or done < 0.3 or luck.random() < 0.5:
        return drawn
    return [Lesson(lesson.frames, a_round(lesson.frames, luck)) for lesson in drawn]


def long_lessons(luck: random.Random, shared: random.Random, frames: int, listed: bool) -> list[Lesson]:
    """Lessons that take looking back, with about `frames` frames, in the last part also lists; `shared` chooses how many are
    in each."""
    count = shared.choice((1, 1, 2, 3, 4, 5, 6, 7))
    short = count == 1 and shared.random() < 0.5
    lots = max(1, round(frames / count))
    return [
        a_lesson(count, luck, other_sizes=True) if short else a_long_lesson(count, luck, listed=listed)
        for _ in range(lots)
    ]


def texts(luck: random.Random, shared: random.Random, tokens: int, easy: bool = False) -> list[Lesson]:
    """Lessons without frames of about `tokens` tokens; `shared` chooses how long each is. Easy ones are short."""
    size = shared.choice((64, 128, 256) if easy else TEXT_SIZES)
    return [a_text(size, luck, easy) for _ in range(max(1, tokens // size))]
