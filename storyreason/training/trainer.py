"""transformers' Trainer with own batches, an exact loss, whole checkpoints, a progress file."""

import hashlib
import json
import math
import os
import random
import resource
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from storyreason import chat, runs
from storyreason.errors import TrainingError
from storyreason.training import checkpoints, plan, precision
from storyreason.training.examples import Stories, collate
from storyreason.training.job import Job
from storyreason.training.progress import Progress
from storyreason.training.watch import Watch

RESULT = "result"
WEIGHTS = "trained.safetensors"
ATTEMPT = "STORYREASON_ATTEMPT"
"""Environment: names this attempt in the progress file's `start` line, so that a follower knows its own."""


class _Pace(TrainerCallback):
    """Asks for a validation and a checkpoint at each epoch's end, for a checkpoint every so often, and for the end."""

    def __init__(self, trainer: "StoryTrainer") -> None:
        self.trainer = trainer

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.remember_random_state()

    def on_substep_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer.stop_wanted():  # the half step is dropped, and done again after the resume
            self.trainer.recall_random_state()
            control.should_training_stop = True
            control.should_save = state.global_step > 0

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = self.trainer
        ends_epoch = trainer.plan.ends_epoch(state.global_step)
        control.should_log = True
        control.should_evaluate = ends_epoch and len(trainer.validation) > 0
        control.should_save = ends_epoch or state.global_step % trainer.config.save_every == 0
        if state.global_step < trainer.plan.steps and trainer.stop_wanted():
            control.should_evaluate = False
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_evaluate = False  # the Trainer's one epoch is the whole plan, and its last step was validated


class StoryTrainer(Trainer):
    """The Trainer with a plan instead of a sampler, and a loss that is the mean over all answer tokens of a step."""

    def __init__(
        self,
        job: Job,
        arguments: TrainingArguments,
        base: Any,
        schedule: plan.Plan,
        stories: Stories,
        validation: Stories,
        watch: Watch,
        processor: Any,
    ) -> None:
        self.job = job
        self.config = job.training
        self.plan = schedule
        self.stories = stories
        self.validation = validation
        self.watch = watch
        self.image_token = processor.image_token_id
        pad = processor.tokenizer.pad_token_id
        super().__init__(
            model=base,
            args=arguments,
            data_collator=partial(collate, pad=pad if pad is not None else processor.tokenizer.eos_token_id),
            train_dataset=stories,
        )
        self.loss_is_scaled_for_ga = True  # `compute_loss` divides by the whole step's tokens
        self.add_callback(_Pace(self))
        self.progress = Progress(job.work, muted=not self.is_world_process_zero())
        self._identity = {**job.identity(), "stories_hash": _hash(stories)}
        self._waited = 0.0
        self._random_state: dict[str, Any] = {}
        self._speed = _Speed()

    def _net(self) -> Any:
        return self.model

    # What the run tells

    def begin(self) -> int | None:
        """Say what starts, and give the step of the checkpoint to go on from."""
        resumed = checkpoints.newest(self.job.work)
        if resumed is not None and (found := checkpoints.identity(self.job.work, resumed)) != self._identity:
            other = [key for key in self._identity if found.get(key) != self._identity[key]]
            raise TrainingError(
                f"{checkpoints.path(self.job.work, resumed)} is a checkpoint of another run (other "
                f"{', '.join(other)}): remove {self.job.work} to start afresh."
            )
        if self.is_world_process_zero():
            checkpoints.clear(self.job.work)
        counts = [(p.numel(), p.requires_grad) for p in self._net().parameters()]
        self.progress.begin(
            os.environ.get(ATTEMPT, ""),
            step=resumed or 0,
            steps=self.plan.steps,
            stories=len(self.stories),
            validation_stories=len(self.validation),
            dropped=self.stories.dropped + self.validation.dropped,
            tokens=sum(self.stories.lengths),
            trainable=sum(count for count, trained in counts if trained),
            frozen=sum(count for count, trained in counts if not trained),
            mode=self.config.mode,
            dtype=precision.resolve(self.config.dtype),
            processes=self.args.world_size,
            threads=torch.get_num_threads(),
            distributed_type=self.accelerator.distributed_type.value,
            device=str(self.args.device),
        )
        return resumed

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One line for every optimizer step. Raises TrainingError with the stories of a loss that is not finite."""
        if "loss" not in logs:  # the Trainer's summary at the end
            return
        step = self.state.global_step
        items = self.plan.step(step - 1)
        if not math.isfinite(logs["loss"]):
            names = ", ".join(self.stories.stories[index].story_id for _, index in items)
            raise TrainingError(
                f"The loss of step {step} is {logs['loss']}; its stories: {names}. The checkpoints before it are good: "
                "lower training.learning_rate, or look at these stories."
            )
        seconds, waited = self._speed.step(), self._waited
        self._waited = 0.0
        self.progress.write(
            "step",
            step=step,
            steps=self.plan.steps,
            epoch=round(self.plan.epochs_after(step), 4),
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=float(logs.get("grad_norm", 0.0)),
            seconds=seconds,
            tokens_per_s=sum(map(self.stories.tokens, items)) / seconds,
            answer_tokens_per_s=sum(len(self.stories.stories[index].answer) for _, index in items) / seconds,
            peak_memory=_peak_memory(),
            data_wait=waited / seconds,
            seconds_left=self._speed.mean * (self.plan.steps - step),
        )

    # Data

    def get_train_dataloader(self) -> DataLoader:
        passes = plan.Passes(self.plan, self.args.process_index)
        return DataLoader(
            self.stories,  # type: ignore[arg-type]
            batch_sampler=passes,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        began = time.perf_counter()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._waited += time.perf_counter() - began
        # Over all processes, known from the plan: each token of a step weighs the same, whatever batch it is in.
        items = self.plan.step(self.state.global_step)
        return batches, torch.tensor(sum(map(self.stories.loss_tokens, items)), device=device)

    # Loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The sum over this batch's tokens, divided by the whole step's (gradients are averaged over processes)."""
        loss = self._loss_sum(model, inputs, inputs.pop("labels"))
        return loss / num_items_in_batch * self.args.world_size

    def _loss_sum(self, model: Any, inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
        """The sum of the cross-entropies of all label tokens. Logits are made where a label is, or (Liger) not at all."""
        if self.args.use_liger_kernel:
            total: torch.Tensor = model(**inputs, labels=labels, skip_logits=True, num_items_in_batch=1).loss
            return total
        return token_losses(model, inputs, labels)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The mean loss over all label tokens of the validation stories; remembers the best step."""
        self._net().eval()
        world, size = self.args.world_size, self.config.batch_size
        order = sorted(range(len(self.validation)), key=self.validation.lengths.__getitem__)
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        mine: list[list[int] | None] = list(batches[self.args.process_index :: world])
        mine += [None] * (-(-len(batches) // world) - len(mine))  # every process must take part in every pass
        total = torch.zeros(2, dtype=torch.float64)
        for indices in mine:
            chosen: list[Any] = [self.validation[0, index] for index in indices or batches[0]]
            inputs = self._prepare_inputs(self.data_collator(chosen))
            labels = inputs.pop("labels")
            with torch.no_grad(), self.compute_loss_context_manager():
                loss = self._loss_sum(self.model_wrapped, inputs, labels)
            if indices is not None:
                total += torch.tensor([float(loss), int((labels[:, 1:] != chat.IGNORED).sum())])
        if world > 1:
            total = total.to(self.args.device)
            dist.all_reduce(total)
        value = float(total[0] / total[1])
        if self.state.best_metric is None or value < self.state.best_metric:
            self.state.best_metric, self.state.best_global_step = value, self.state.global_step
        self.progress.write("validation", step=self.state.global_step, loss=value)
        self._speed.pause()
        return {"eval_loss": value}

    # Stopping

    def stop_wanted(self) -> bool:
        """Whether any process was told to stop; all agree."""
        if self.args.world_size == 1:
            return self.watch.wanted
        flag = torch.tensor(float(self.watch.wanted), device=self.args.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        if flag:
            self.watch.stop("another process was told to stop")
        return bool(flag)

    def remember_random_state(self) -> None:
        self._random_state = {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }

    def recall_random_state(self) -> None:
        random.setstate(self._random_state["python"])
        np.random.set_state(self._random_state["numpy"])
        torch.set_rng_state(self._random_state["torch"])
        if self._random_state["cuda"] is not None:
            torch.cuda.set_rng_state(self._random_state["cuda"])

    # Checkpoints and the result

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """Write model, optimizer, schedule, random states and place aside, then rename. All processes take part.

        Raises TrainingError when it cannot be written; the checkpoint before it stays.
        """
        work, step = self.job.work, self.state.global_step
        final, temporary = checkpoints.path(work, step), checkpoints.temporary(work, step)
        if final.exists():
            return
        try:
            if not self.is_fsdp_enabled and self.is_world_process_zero():  # FSDP's weights come with its optimizer
                temporary.mkdir(exist_ok=True)
                save_file(self._trained(), temporary / WEIGHTS)
            self._save_optimizer_and_scheduler(str(temporary))
            self._save_rng_state(str(temporary))
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                self.state.save_to_json(str(temporary / "trainer_state.json"))
                runs.write_text(temporary / checkpoints.IDENTITY, json.dumps(self._identity) + "\n")
                temporary.rename(final)
                checkpoints.rotate(work, self.state.best_global_step)
        except Exception as error:  # a full disk is an OSError, torch's RuntimeError or safetensors' own kind
            shutil.rmtree(temporary, ignore_errors=True)
            kept = checkpoints.newest(work)
            raise TrainingError(
                f"The checkpoint of step {step} could not be written to {work}: {' '.join(str(error).split())[:200]}. "
                + (f"The one of step {kept} stays; " if kept else "")
                + "make room (or mend what is named) and run again: training goes on from there."
            ) from error
        self.accelerator.wait_for_everyone()
        self.progress.write("checkpoint", step=step, path=final.name)
        self._speed.pause()

    def _trained(self) -> dict[str, torch.Tensor]:
        parameters = self.accelerator.unwrap_model(self.model).named_parameters()
        return {name: parameter.detach().contiguous() for name, parameter in parameters if parameter.requires_grad}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Put back the trained weights. (The Trainer's own way loads nothing when stored names are older than the model's.)

        Raises TrainingError when the checkpoint does not hold exactly these.
        """
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        trained, stored = self._trained(), load_file(Path(resume_from_checkpoint) / WEIGHTS)
        if trained.keys() != stored.keys():
            raise TrainingError(f"{resume_from_checkpoint} holds other weights than this model's: remove it.")
        for name, parameter in trained.items():
            parameter.copy_(stored[name])

    def write_result(self) -> None:
        """Leave the best weights on the validation films (the last, without such films) in `result/`."""
        work, best = self.job.work, self.state.best_global_step
        if best and best != self.state.global_step and checkpoints.path(work, best).is_dir():
            self._load_from_checkpoint(str(checkpoints.path(work, best)), self.model)
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        temporary, final = work / f".{RESULT}", work / RESULT
        if self.is_world_process_zero():
            shutil.rmtree(temporary, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.save_model(str(temporary), _internal_call=True)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            (temporary / "training_args.bin").unlink(missing_ok=True)
            if not _holds_weights(temporary):
                raise TrainingError(
                    f"{temporary} was written without any weights: this mode does not work so, see log.txt."
                )
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
        self.progress.write(
            "end", step=self.state.global_step, result=RESULT, best_step=best, best_loss=self.state.best_metric
        )


def token_losses(model: Any, inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """The sum of the cross-entropies of all label tokens. Logits are made only where a label is."""
    targets = labels[:, 1:]
    columns = (targets != chat.IGNORED).any(dim=0).nonzero().squeeze(1)
    logits = model(**inputs, logits_to_keep=columns).logits
    return cross_entropy(
        logits.flatten(0, 1).float(), targets[:, columns].flatten(), ignore_index=chat.IGNORED, reduction="sum"
    )


def _holds_weights(folder: Path) -> bool:
    """Whether any of a folder's safetensors files holds a tensor; PEFT writes an empty one without a word."""

    def filled(path: Path) -> bool:
        with safe_open(path, framework="pt") as file:
            return len(file.keys()) > 0

    return any(filled(path) for path in folder.glob("*.safetensors"))


def _peak_memory() -> int:
    """Bytes: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _hash(stories: Stories) -> str:
    """Names the stories as the model sees them: IDs, frames' tokens, answers."""
    digest = hashlib.sha256()
    for one in stories.stories:
        digest.update(f"{one.story_id} {one.image_tokens} ".encode() + np.asarray(one.answer, np.int32).tobytes())
    return digest.hexdigest()[:16]


class _Speed:
    """Seconds of each optimizer step, validations and checkpoints left out."""

    def __init__(self) -> None:
        self.mean = 0.0
        self._began = time.perf_counter()

    def step(self) -> float:
        seconds = time.perf_counter() - self._began
        self.mean = seconds if not self.mean else 0.9 * self.mean + 0.1 * seconds
        self.pause()
        return seconds

    def pause(self) -> None:
        self._began = time.perf_counter()
