"""How a model that learns from rewards is asked in each round: by the engine that evaluates, with the weights it has then."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storyreason import training
from storyreason.config import RunConfig
from storyreason.generation import several
from storyreason.training import launch, rounds
from tasks import accelerator, registry
from tasks.data import Base
from tasks.progress import Progress
from tasks.steps import Work


def devices(config: RunConfig) -> str | None:
    """Those of the training and of the engines, which take turns on them; None if neither names any."""
    named = {one for some in (config.training.devices, config.serving.devices) if some for one in some.split(",")}
    return ",".join(sorted(named, key=int)) or None


def run(
    config: RunConfig, base: Base, job: training.Job, work: Work, follow: Callable[[dict[str, Any]], None], who: str
) -> Path:
    """All rounds that are not complete; gives the folder of the result."""
    shown = Progress("answers", "answering")

    def answered(number: int, done: int, of: int) -> None:
        shown.report(done, of, f"round {number + 1} of {config.improve.rounds}: {done}/{of} answers")

    def learn(job: training.Job, on_progress: launch.OnProgress, after_step: int) -> Path:
        with accelerator.room(config, who):
            return launch.run(job, on_progress, after_step=after_step)

    @contextmanager
    def opened(weights: Path) -> Iterator[rounds.Engines]:
        folder = work.folder / "model"  # for these answers only: the next round has another
        registry.write_model(config, base, weights, folder, card="", say=lambda said: None)
        try:
            with _engines(config, folder, work.folder / "vllm.log") as engines:
                yield engines
        finally:
            shutil.rmtree(folder)

    return rounds.run(job, rounds.Asking(opened, config.generation, config.reward, answered), follow, learn)


@contextmanager
def _engines(config: RunConfig, folder: Path, log: Path) -> Iterator[rounds.Engines]:
    if config.improve.engine == "inprocess":
        from storyreason.generation.inprocess import InProcess

        yield [InProcess(folder, longest=config.serving.max_model_len)], "storyteller"
        return
    with several.engines(folder, config.serving, log) as engines:
        yield [engine.url for engine in engines], engines[0].name
