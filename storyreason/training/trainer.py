"""transformers' Trainer with own batches, an exact loss, whole checkpoints, a progress file."""

import json
import math
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from storyreason import chat, runs
from storyreason.errors import TrainingError
from storyreason.model import PROMPT
from storyreason.training import checkpoints, features, machine, packing, plan, sharding
from storyreason.training.examples import Batches, StoryDataset, collate
from storyreason.training.job import Job
from storyreason.training.loss import token_losses
from storyreason.training.measure import Cost, Speed, peak_memory, peak_operations
from storyreason.training.pace import HalfStepError, Pace
from storyreason.training.progress import ProgressWriter
from storyreason.training.watch import Watch

RESULT = "result"
WEIGHTS = "trained.safetensors"
STATE = "trainer_state.json"
"""transformers' name for the file in which a checkpoint keeps its step, its best one and the validations until then."""
ATTEMPT = "STORYREASON_ATTEMPT"
"""Environment: names this attempt in the progress file's `start` line, so that a follower knows its own."""


class StoryTrainer(Trainer):
    """The Trainer with a plan instead of a sampler, and a loss that is the mean over all answer tokens of a step.

    What the Trainer takes for one batch is all of a step's passes: how many they are may differ from step to step.
    """

    def __init__(
        self,
        job: Job,
        arguments: TrainingArguments,
        base: Any,
        schedule: plan.Plan,
        stories: StoryDataset,
        validation: StoryDataset,
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
        self.join = (
            partial(packing.join, positions=packing.positions_of(base))
            if self.config.pack_tokens
            else partial(collate, pad=pad if pad is not None else processor.tokenizer.eos_token_id)
        )
        super().__init__(model=base, args=arguments, train_dataset=stories)
        self.loss_is_scaled_for_ga = True  # `compute_loss` divides by the whole step's tokens
        self.add_callback(Pace(self))
        self.progress = ProgressWriter(job.work, muted=not self.is_world_process_zero())
        self._identity = checkpoints.identity(job, stories, base, len(schedule.step(0)), self.is_fsdp_enabled)
        self._tower: Any = None
        self._waited = 0.0
        self._random_state: dict[str, Any] = {}
        self._speed = Speed()
        self._cost = Cost(base, self.config.mode)
        self._peak = peak_operations(self.args.device, self.args.bf16) * self.args.world_size

    def _net(self) -> Any:
        return self.model

    def leave_out_tower(self) -> None:
        """The vision tower is frozen, and all that it sees is kept: its memory is free until the result is written.

        Where whole weights are saved, the first process holds it in the CPU's memory.
        """
        tower = features.leave_out(features.tower_of(self.model))
        if self.config.mode == "language" and self.is_world_process_zero():
            self._tower = tower.to("cpu")
        del tower
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As the Trainer saves, with the tower that was left out."""
        if self._tower is not None:
            features.put_back(self.accelerator.unwrap_model(self.model), self._tower, state_dict)
        super()._save(output_dir, state_dict)

    # What the run tells

    def begin(self) -> int | None:
        """Say what starts, and give the step of the checkpoint to go on from."""
        resumed = checkpoints.to_resume(self.job.work, self._identity, self.config.afresh)
        self.accelerator.wait_for_everyone()  # all have looked before anything is removed
        if self.is_world_process_zero():
            checkpoints.clear(self.job.work, whole=resumed is None)
        counts = [(p.numel(), p.requires_grad) for p in self._net().parameters()]
        self.progress.begin(
            os.environ.get(ATTEMPT, ""),
            step=resumed or 0,
            steps=self.plan.steps,
            stories=len(self.stories),
            validation_stories=len(self.validation),
            dropped=len(self.stories.dropped) + len(self.validation.dropped),
            bad=len(self.stories.prepared.bad),
            tokens=sum(self.stories.lengths),
            trainable=sum(count for count, trained in counts if trained),
            frozen=sum(count for count, trained in counts if not trained),
            mode=self.config.mode,
            dtype=machine.resolve_dtype(self.config.dtype),
            processes=self.args.world_size,
            threads=torch.get_num_threads(),
            distributed_type=self.accelerator.distributed_type.value,
            device=str(self.args.device),
            start_memory=peak_memory(),
        )
        return resumed

    def begin_clock(self) -> None:
        """The first step's seconds begin now."""
        self._speed.pause()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One line for every optimizer step. Raises TrainingError with the stories of a loss that is not finite."""
        if "loss" not in logs:  # the Trainer's summary at the end
            return
        step = self.state.global_step
        items = self.plan.step(step - 1)
        norm = float(logs.get("grad_norm") or 0.0)
        if not (math.isfinite(logs["loss"]) and math.isfinite(norm)):
            names = ", ".join(self.stories.story(index).story_id for _, index in items)
            what = f"loss of step {step} is {logs['loss']}"
            if math.isfinite(logs["loss"]):  # the weights are spoilt already, and no checkpoint may have them
                what = f"gradient of step {step} has the norm {norm}"
            raise TrainingError(
                f"The {what}; its stories: {names}. The checkpoints before it are good: "
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
            grad_norm=norm,
            seconds=seconds,
            tokens_per_s=sum(map(self.stories.tokens, items)) / seconds,
            answer_tokens_per_s=sum(self.stories.answer_tokens(index) for _, index in items) / seconds,
            mfu=self._operations(step - 1) / seconds / self._peak,
            peak_memory=peak_memory(),
            data_wait=waited / seconds,
            seconds_left=self._speed.mean * (self.plan.steps - step),
        )

    def _operations(self, step: int) -> float:
        """What a step (from 0) requires; features that were kept cost nothing."""
        total = 0.0
        for one_pass in self.plan.parts[step]:
            items = [item for mine in one_pass for item in mine]
            seen = all(index in self.stories.seen for _, index in items)
            total += sum(
                self._cost.of(
                    self.stories.tokens(item),
                    self.stories.loss_tokens(item),
                    0 if seen else self.stories.image_tokens(item[1]),
                )
                for item in items
            )
        return total

    # Data

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(
            Batches(self.stories, self.join, self.args.process_index),  # type: ignore[arg-type]
            batch_sampler=plan.Passes(self.plan),
            collate_fn=list,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        began = time.perf_counter()
        steps, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._waited += time.perf_counter() - began
        # Over all processes, known from the plan: each token of a step weighs the same, whatever pass it is in.
        items = self.plan.step(self.state.global_step)
        return steps, torch.tensor(sum(map(self.stories.loss_tokens, items)), device=device)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """All passes of a step, forward and backward; gradients meet those of other processes in the last one.

        Raises HalfStepError when the run was told to stop in between.
        """
        total, last = torch.zeros((), device=self.args.device), len(inputs) - 1
        for number, one in enumerate(inputs):
            self.accelerator.gradient_state._set_sync_gradients(number == last)
            with self.accelerator.no_sync(model) if number < last else nullcontext():
                total += super().training_step(model, one, num_items_in_batch)
            if number < last and self.stop_wanted():
                raise HalfStepError
        return total

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # not the Trainer's estimate, which wants one batch

    def drop_half_step(self) -> None:
        """After HalfStepError: leave the checkpoint of the last whole step, as if this one had not begun."""
        self.recall_random_state()
        self.model_wrapped.zero_grad()
        if self.state.global_step > 0:
            self._save_checkpoint(self.model)

    # Loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The sum over this batch's tokens, divided by the whole step's (gradients are averaged over processes)."""
        loss = self._loss_sum(model, inputs, inputs.pop("labels"))
        return loss / num_items_in_batch * self.args.world_size

    def _loss_sum(self, model: Any, inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
        """The sum of the cross-entropies of all label tokens. Logits are made where a label is, or (Liger) not at all."""
        if "features" in inputs:
            inputs["mm_encoder_outputs"] = features.as_seen(inputs.pop("features"))
        if self.args.use_liger_kernel:
            total: torch.Tensor = model(
                **inputs, labels=labels, skip_logits=True, num_items_in_batch=1, use_cache=False
            ).loss
            return total
        return token_losses(model, inputs, labels)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The mean loss over all label tokens of the validation stories; remembers the best step.

        Nothing is recorded when the run was told to stop in between: the epoch is validated after the resume.
        """
        if self.control.should_save:  # first, so that a validation that is stopped or killed costs no step
            self._save_checkpoint(self.model)
        self._net().eval()
        world, rank, batches = self.args.world_size, self.args.process_index, self._validation_batches()
        passes = Batches(self.validation, self.join, rank)
        total = torch.zeros(2, dtype=torch.float64)
        for start in range(0, len(batches), world):
            if self.stop_wanted():
                self.control.should_training_stop = True
                return {}
            shared = batches[start : start + world]
            indices = shared[rank] if rank < len(shared) else None
            shared += shared[:1] * (world - len(shared))  # every process must take part in every pass
            inputs = self._prepare_inputs(passes[tuple(tuple((0, index) for index in one) for one in shared)])
            labels = inputs.pop("labels")
            with torch.no_grad(), self.compute_loss_context_manager():
                loss = self._loss_sum(self.model_wrapped, inputs, labels)
            if indices is not None:
                total += torch.tensor([float(loss), int((labels[:, 1:] != chat.IGNORED).sum())])
        if world > 1:
            total = total.to(self.args.device)
            dist.all_reduce(total)
        value = float(total[0] / total[1])
        best = self.state.best_metric
        if math.isfinite(value) and (best is None or value < best):  # nothing is less than NaN
            self.state.best_metric, self.state.best_global_step = value, self.state.global_step
        self.state.log_history.append({"step": self.state.global_step, "eval_loss": value})
        self.progress.write("validation", step=self.state.global_step, loss=value)
        self._tell_checkpoint()
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {"eval_loss": value})
        self._speed.pause()
        return {"eval_loss": value}

    def _validation_batches(self) -> list[list[int]]:
        lengths, size = self.validation.lengths, self.config.batch_size
        if self.config.pack_tokens:
            return plan.pack(lengths, self.config.pack_tokens)
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        return [order[start : start + size] for start in range(0, len(order), size)]

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
                self.state.save_to_json(str(temporary / STATE))
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

    def _tell_checkpoint(self) -> None:
        """The checkpoint of this step learns what its validation gave."""
        folder = checkpoints.path(self.job.work, self.state.global_step)
        if self.is_world_process_zero() and folder.is_dir():
            temporary = folder / f".{STATE}"
            self.state.save_to_json(str(temporary))
            temporary.rename(folder / STATE)

    def _trained(self) -> dict[str, torch.Tensor]:
        parameters = self.accelerator.unwrap_model(self.model).named_parameters()
        return {name: parameter.detach().contiguous() for name, parameter in parameters if parameter.requires_grad}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Put back the trained weights. (The Trainer's own way loads nothing when stored names are older than the model's.)

        Raises TrainingError when the checkpoint does not hold exactly these.
        """
        if self.is_fsdp_enabled:
            sharding.check(Path(resume_from_checkpoint), self.model)
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
            prompt = {"images_first": self.job.training.images_first}
            runs.write_text(temporary / PROMPT, json.dumps(prompt) + "\n")
            if not _holds_weights(temporary):
                raise TrainingError(
                    f"{temporary} was written without any weights: this mode does not work so, see log.txt."
                )
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
        self.progress.write(
            "end", step=self.state.global_step, result=RESULT, best_step=best, best_loss=self.state.best_metric
        )


def _holds_weights(folder: Path) -> bool:
    """Whether any of a folder's safetensors files holds a tensor; PEFT writes an empty one without a word."""

    def filled(path: Path) -> bool:
        with safe_open(path, framework="pt") as file:
            return len(file.keys()) > 0

    return any(filled(path) for path in folder.glob("*.safetensors"))
