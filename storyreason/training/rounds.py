"""A training in rounds: in each, the model as it is then answers, its answers are rewarded, and it learns from them.

    round-0/answers-0.jsonl    the first answer to each story of the round; with `answers-1.jsonl` … the group of each
            samples.jsonl      all of them with their rewards and advantages: from here on the round is learnt from
            manifest.json      the round is complete: `result/` has the weights that it left

Engine and training process take turns, so that both have the whole device; the training process goes on from the checkpoint of
the round before, with optimizer and learning rate. What is killed is repeated: an answer, or the steps of one round.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from storyreason import dataset, generation, runs
from storyreason.errors import TrainingError
from storyreason.format import answer, grids
from storyreason.generation.config import GenerationConfig
from storyreason.generation.engine import Engine
from storyreason.scoring import Reference, Reward, reward
from storyreason.scoring.config import RewardConfig
from storyreason.training import plan, samples, targets
from storyreason.training.job import Job
from storyreason.training.launch import OnProgress
from storyreason.training.samples import Sample

Engines = tuple[Sequence[str | Engine], str]
"""Engines, or addresses of some, and what they call the model."""
Opened = Callable[[Path], AbstractContextManager[Engines]]
"""Starts engines with the weights of a training's result, and stops them."""
Learn = Callable[[Job, OnProgress, int], Path]
"""Runs the training process of a round, as `launch.run`: lines of steps are told only after this many."""


@dataclass(frozen=True)
class Asking:
    """How a model is asked, and what its answers are worth."""

    opened: Opened
    generation: GenerationConfig
    reward: RewardConfig
    on_answers: Callable[[int, int, int], object] = lambda number, done, of: None
    """Told in a round (from 0): answers so far, and how many there will be."""


def run(job: Job, asking: Asking, on_progress: OnProgress, learn: Learn) -> Path:
    """All rounds that are not complete yet; the path of the result. Raises as `generation.predict` and `learn` do."""
    from storyreason.training import checkpoints

    assert job.improve is not None and job.start is not None
    told = _Once(on_progress)
    for number in range(job.improve.rounds):
        folder, end = samples.folder(job.work, number), (number + 1) * job.improve.steps
        # without its checkpoint the next round has nothing to go on from: it is learnt again, from the answers that are kept
        if runs.read_manifest(folder) is not None and (checkpoints.newest(job.work) or 0) >= end:
            continue
        if not (folder / samples.FILE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            _answer(job, number, asking, job.work / "result" if number else job.start)
        of_round = job.model_copy(update={"round": number, "request": asking.generation.request})
        learn(of_round, told, number * job.improve.steps)
        runs.write_manifest(folder, files=(samples.FILE,), round=number)
    return job.work / "result"


class _Once:
    """Hands on each line once: every process reports those of the ones before it, too."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._seen: set[tuple[str, float]] = set()

    def __call__(self, line: dict[str, Any]) -> None:
        if (key := (line["event"], line["time"])) not in self._seen:
            self._seen.add(key)
            self._on_progress(line)


def _answer(job: Job, number: int, asking: Asking, weights: Path) -> None:
    """Have the stories of a round answered by the model with these weights, and write what the answers are worth."""
    assert job.improve is not None
    folder, count = samples.folder(job.work, number), job.improve.answers
    examples = asked(job, number)
    files = [folder / f"answers-{place}.jsonl" for place in range(count)]
    with asking.opened(weights) as (engines, name):
        for place, file in enumerate(files):

            def report(done: int, of: int, before: int = place * len(examples)) -> None:
                asking.on_answers(number, before + done, count * len(examples))

            generation.predict(engines, name, examples, _request(job, asking.generation, number, place), file, report)
    told = [generation.answering.read(file) for file in files]
    found: list[Sample] = []
    for example, *group in zip(examples, *told, strict=True):
        texts = [(one.answer, one.cut, one.tokens) for one in group]
        worth = _rewards(example, [text for text, *_ in texts], asking.reward, job.training.boxes)
        found += samples.compared(example.story_id, texts, worth)
    samples.write(folder / samples.FILE, found)


def _rewards(example: dataset.Example, texts: Iterable[str], config: RewardConfig, boxes: str) -> list[Reward]:
    reference = Reference.of(example)
    return [reward(reference, text, config, boxes) for text in texts]


def _request(job: Job, config: GenerationConfig, number: int, place: int) -> GenerationConfig:
    """How the answers of one file are sampled: with a seed of its own, and with boxes as the model writes them."""
    assert job.improve is not None
    luck = hashlib.sha256(f"{job.training.seed} {number} {place}".encode()).digest()
    own = {
        "decoding": "free",
        "temperature": job.improve.temperature,
        "top_p": 1.0,
        "seed": int.from_bytes(luck[:4], "big") % 2**31,
        "boxes": grids.ORIGINAL,
        "images_first": job.training.images_first,
        **({"concurrency": 1} if job.improve.engine == "inprocess" else {}),
    }
    return config.model_copy(update=own)


def asked(job: Job, number: int) -> list[dataset.Example]:
    """The stories of a round: the next ones of a stream in which each comes once before any comes again, with as many pictures
    as the model is trained on. Raises TrainingError when there are fewer than a round takes."""
    from storyreason.training import process

    assert job.improve is not None
    examples = dataset.load(job.data, "train")
    stories, _ = process.split(examples, job)
    size = job.improve.stories
    if len(stories) < size:
        raise TrainingError(
            f"A round asks for improve.stories={size} stories, and there are {len(stories)} to train on: lower it, or add data."
        )
    places = [
        index for _, index in islice(plan.stream(len(stories), job.training.seed), number * size, (number + 1) * size)
    ]
    if len(set(places)) < len(places):  # where the stream begins again, a story may come twice in a row
        places = list(dict.fromkeys(places))
    return [_shown(examples[stories.story(index).place], job.training.max_images) for index in places]


def _shown(example: dataset.Example, most: int | None) -> dataset.Example:
    """An example with its first images only, and what of the analysis and the story is on them."""
    if most is None or len(example.images) <= most:
        return example
    read = targets.cut(answer.read(answer.join(example.chain_of_thought, example.story)), most)
    return replace(
        example,
        images=example.images[:most],
        frame_count=None,
        chain_of_thought=read.chain_of_thought,
        story=read.story_text,
    )
