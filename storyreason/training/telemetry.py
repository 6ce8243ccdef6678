"""What a training process reports: every line that it writes to `progress.jsonl`."""

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from storyreason.errors import TrainingError
from storyreason.training import machine, sharding
from storyreason.training.examples import StoryDataset
from storyreason.training.job import Job
from storyreason.training.measure import Cost, Speed, Utilization, peak_memory, peak_operations
from storyreason.training.plan import Plan
from storyreason.training.progress import IMPROVING, ProgressWriter

ATTEMPT = "STORYREASON_ATTEMPT"
"""Environment: the name of this attempt in the progress file's `start` line, by which its follower recognizes it."""


class Telemetry(TrainerCallback):
    """Writes the lines of one attempt. Only the first process writes."""

    def __init__(self, trainer: Trainer, job: Job, plan: Plan, stories: StoryDataset, validation: StoryDataset) -> None:
        self.trainer = trainer
        self.job = job
        self.plan = plan
        self.stories = stories
        self.validation = validation
        self.writer = ProgressWriter(job.work, muted=not trainer.is_world_process_zero())
        self._cost = Cost(trainer.model, job.training.mode)
        arguments = trainer.args
        self._utilization = Utilization(
            lambda: peak_operations(arguments.device, arguments.bf16) * arguments.world_size
        )
        self._speed = Speed()
        self._waited = 0.0

    def begin(self, resumed: int | None) -> None:
        """The attempt's first line; lines after the step that it resumes from are dropped."""
        trainer = self.trainer
        model: Any = trainer.model
        counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
        self.writer.begin(
            os.environ.get(ATTEMPT, ""),
            step=resumed or 0,
            steps=self.plan.steps,
            stories=len(np.unique(self.stories.rows)),
            validation_stories=len(np.unique(self.validation.rows)),
            dropped=len(self.stories.dropped) + len(self.validation.dropped),
            bad=len(self.stories.prepared.bad),
            tokens=sum(self.stories.lengths),
            trainable=sum(count for count, trained in counts if trained),
            frozen=sum(count for count, trained in counts if not trained),
            mode=self.job.training.mode,
            dtype=machine.resolve_dtype(self.job.training.dtype),
            processes=trainer.args.world_size,
            threads=torch.get_num_threads(),
            distributed_type=trainer.accelerator.distributed_type.value,
            device=str(trainer.args.device),
            start_memory=peak_memory(),
        )

    def restart_clock(self) -> None:
        """Start timing the next step now, so that checkpoints and validations do not count."""
        self._speed.pause()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block's seconds as the step's wait for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def checkpoint(self, step: int, name: str) -> None:
        self.writer.write("checkpoint", step=step, path=name)
        self.restart_clock()

    def end(self, state: TrainerState, result: str) -> None:
        best = state.best_global_step
        self.writer.write("end", step=state.global_step, result=result, best_step=best, best_loss=state.best_metric)

    # Called by the Trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer.is_fsdp_enabled:
            self.writer.write("sharded", step=state.global_step, parts=sharding.parts(self.trainer.model))

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """One line for every optimizer step. Raises TrainingError, with the step's stories, when the loss is not finite."""
        if logs is None or "loss" not in logs:  # the Trainer's summary at the end
            return
        step = state.global_step
        items = self.plan.step(step - 1)
        norm = float(logs.get("grad_norm") or 0.0)
        self._refuse_infinite(step, logs["loss"], norm)
        seconds, waited = self._speed.step(), self._waited
        self._waited = 0.0
        self.writer.write(
            "step",
            step=step,
            steps=self.plan.steps,
            epoch=round(self.plan.epochs_after(step), 4),
            loss=logs["loss"],
            **_improving(logs),
            learning_rate=logs["learning_rate"],
            grad_norm=norm,
            seconds=seconds,
            tokens_per_s=sum(map(self.stories.tokens, items)) / seconds,
            answer_tokens_per_s=sum(self.stories.answer_tokens(index) for _, index in items) / seconds,
            mfu=self._utilization.of(self._operations(step - 1), seconds),
            peak_memory=peak_memory(),
            data_wait=waited / seconds,
            seconds_left=self._speed.mean * (self.plan.steps - step),
        )

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        assert metrics is not None
        self.writer.write("validation", step=state.global_step, loss=metrics["eval_loss"], **_improving(metrics))

    def _refuse_infinite(self, step: int, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        names = ", ".join(self.stories.story(index).story_id for _, index in self.plan.step(step - 1))
        what = f"loss of step {step} is {loss}"
        if math.isfinite(loss):  # the weights are corrupt already: no checkpoint may hold them
            what = f"gradient of step {step} has the norm {norm}"
        raise TrainingError(
            f"The {what}; its stories: {names}. The checkpoints before it are intact: "
            "lower training.learning_rate, or look at these stories."
        )

    def _operations(self, step: int) -> float:
        """The operations that a step (from 0) requires; features read from the cache cost nothing."""
        total = 0.0
        for one_pass in self.plan.parts[step]:
            items = [item for mine in one_pass for item in mine]
            seen = all(index in self.stories.seen for _, index in items)
            total += sum(
                self._cost.of(tokens, labels, 0 if seen else self.stories.image_tokens(item[1]))
                for item in items
                for tokens, labels in self.stories.passes(item)
            )
        return total


def _improving(values: Mapping[str, float]) -> dict[str, float]:
    return {name: values[name] for name in IMPROVING if name in values}
