"""transformers' Trainer with planned batches and an exact loss: the mean over all answer tokens of a step."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainingArguments

from storyreason import architecture, chat
from storyreason.compat.trainer import OpenTrainer
from storyreason.training import checkpoints, features, packing, plan, setup
from storyreason.training.checkpoints import CheckpointKeeper
from storyreason.training.examples import Batches, StoryDataset, collate
from storyreason.training.job import Job
from storyreason.training.pace import HalfStepError, Pace
from storyreason.training.telemetry import Telemetry
from storyreason.training.watch import Watch


class StoryTrainer(OpenTrainer):
    """The Trainer with a plan instead of a sampler, and a loss that is the mean over all answer tokens of a step.

    The Trainer's one batch holds all micro-batches of a step, whose number may differ from step to step.
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
        pad = processor.tokenizer.pad_token_id
        self.join = (
            partial(packing.join, positions=packing.positions_of(base))
            if self.config.pack_tokens
            else partial(collate, pad=pad if pad is not None else processor.tokenizer.eos_token_id)
        )
        super().__init__(model=base, args=arguments, train_dataset=stories)
        self.loss_is_scaled_for_ga = True  # `compute_loss` divides by the whole step's tokens
        self.telemetry = Telemetry(self, job, schedule, stories, validation)
        identity = checkpoints.identity(job, stories, base, schedule.per_step, self.is_fsdp_enabled)
        self.keeper = CheckpointKeeper(self, job, identity, on_saved=self.telemetry.checkpoint)
        pace = Pace(
            schedule,
            self.config,
            validate=self.evaluate if len(validation) else None,
            stop_wanted=self.stop_wanted,
            report=self.telemetry.writer.write,
        )
        self.remove_callback(PrinterCallback)
        for callback in (self.telemetry, self.keeper, pace):  # in the order of their lines
            self.add_callback(callback)
        self._tower: Any = None

    def begin(self) -> int | None:
        """Report the start, and give the step of the checkpoint to resume from."""
        resumed = self.keeper.begin()
        self.telemetry.begin(resumed)
        return resumed

    def leave_out_tower(self) -> None:
        """Drop the frozen vision tower, all of whose features are cached, to free its memory until the result is written.

        When whole weights are saved, the first process keeps the tower in the CPU's memory.
        """
        tower = features.leave_out(architecture.inside(self.model))
        if self.config.mode == "language" and self.is_world_process_zero():
            self._tower = tower.to("cpu")
        del tower
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def before_save(self, state_dict: dict[str, Any] | None) -> None:
        """Save the tower that was left out, too."""
        if self._tower is not None:
            features.put_back(self.accelerator.unwrap_model(self.model), self._tower, state_dict)

    def write_checkpoint(self) -> None:
        self.keeper.write()

    def read_checkpoint(self, folder: Path) -> None:
        self.keeper.read(folder)

    def write_result(self) -> None:
        """Write the best weights on the validation films (without such films, the last ones) to `result/`."""
        self.keeper.write_result()
        self.telemetry.end(self.state, checkpoints.RESULT)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Calls the callbacks only: `log_history`, and with it a checkpoint, holds nothing but validations."""
        more = self.measured() if "loss" in logs else {}
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, {**logs, **more})

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As the Trainer's, with a group for each learning rate that differs. The first group has `learning_rate`."""
        made = super().create_optimizer(model)
        if rates := self.config.rates():
            net: Any = self.model if model is None else model
            targets = {p: architecture.target(name) for name, p in net.named_parameters()}
            rate_of = {p: None if one is None else rates.get(one) for p, one in targets.items()}
            made.param_groups = [
                {**group, "params": [p for p in group["params"] if rate_of[p] == rate], "lr": rate or group["lr"]}
                for rate in (None, *dict.fromkeys(rates.values()))
                for group in made.param_groups
            ]
        return made

    # Data

    def get_train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            Batches(self.stories, self.join, self.args.process_index),  # type: ignore[arg-type]
            batch_sampler=plan.Passes(self.plan),
            collate_fn=list,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        with self.telemetry.waiting():
            steps, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return steps, self.divisor(self.plan.step(self.state.global_step)).to(device)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """All micro-batches of a step, forward and backward; gradients are exchanged between processes in the last one.

        Raises HalfStepError when the run is asked to stop in between.
        """
        total, last = torch.zeros((), device=self.args.device), len(inputs) - 1
        for number, one in enumerate(inputs):
            self.reduce_gradients(number == last)
            setup.recompute_if_long(self.model, self.config, one["input_ids"].shape[1])
            with self.accelerator.no_sync(model) if number < last else nullcontext():
                total += super().training_step(model, one, num_items_in_batch)
            if number < last and self.stop_wanted():
                raise HalfStepError
        return total

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # not the Trainer's estimate, which expects a single batch

    # Loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's part of the step's loss (gradients are averaged over processes)."""
        return self.part_of_loss(model, inputs, num_items_in_batch) * self.args.world_size

    def divisor(self, items: Sequence[plan.Item]) -> torch.Tensor:
        """What the sums of a step are divided by: the answer tokens of all processes, as planned. So each token of a step has
        the same weight, whatever micro-batch it is in."""
        return torch.tensor(sum(map(self.stories.loss_tokens, items)))

    def part_of_loss(self, model: Any, inputs: dict[str, Any], divisor: torch.Tensor) -> torch.Tensor:
        """The sum over a micro-batch's tokens, divided by the step's tokens."""
        return self._loss_sum(model, inputs, inputs.pop("labels")) / divisor

    def totals(self, inputs: dict[str, Any]) -> torch.Tensor:
        """The sums of a validation batch from which `validated` computes the loss."""
        labels = inputs.pop("labels")
        loss = self._loss_sum(self.model_wrapped, inputs, labels)
        return torch.tensor([float(loss), int((labels[:, 1:] != chat.IGNORED).sum())], dtype=torch.float64)

    def validated(self, totals: torch.Tensor) -> dict[str, float]:
        """The loss, and what else is reported of a validation, from the totals over all processes."""
        return {"eval_loss": float(totals[0] / totals[1])}

    def measured(self) -> dict[str, float]:
        """What else is reported of the step that just ended. All processes take part."""
        return {}

    def with_seen(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch without its labels, as the model takes it."""
        bare: Any = self.model  # what is called may be wrapped
        return architecture.arguments(inputs, bare.config)

    def _loss_sum(self, model: Any, inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
        """The sum of the cross-entropies of all label tokens. Logits are computed only where there is a label, or (Liger)
        not at all."""
        inputs = self.with_seen(inputs)
        if self.args.use_liger_kernel:
            # FSDP2 gathers the head in bfloat16, in which Liger would add up its gradient chunk by chunk, up to 32 of them.
            total: torch.Tensor = model(
                **inputs,
                labels=labels,
                skip_logits=True,
                num_items_in_batch=1,
                accum_dtype=torch.float32,
                use_cache=False,
            ).loss
            return total
        return token_losses(model, inputs, labels)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The mean loss over all label tokens of the validation stories; remembers the best step.

        Nothing is recorded when the run is asked to stop in between: the epoch is validated after the resume.
        """
        if self.control.should_save:  # first, so that stopping or killing the validation loses no step
            self.write_checkpoint()
        total: Any = 0
        for indices, found in self.over(self.validation, self.batches(self.validation), self.totals):
            if found is None:
                self.control.should_training_stop = True
                return {}
            total += found if indices else torch.zeros_like(found)
        metrics = self.validated(self.over_processes(total))
        value = metrics["eval_loss"]
        best = self.state.best_metric
        if math.isfinite(value) and (best is None or value < best):  # nothing is less than NaN
            self.state.best_metric, self.state.best_global_step = value, self.state.global_step
        self.state.log_history.append({"step": self.state.global_step, "eval_loss": value})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.telemetry.restart_clock()
        return metrics

    def over(
        self, stories: StoryDataset, batches: Sequence[list[int]], compute: Callable[[dict[str, Any]], torch.Tensor]
    ) -> Iterator[tuple[list[int], torch.Tensor | None]]:
        """What `compute` gives for each batch of this process, without gradients or dropout, and the batch's stories.

        Every process takes part in every pass; one that has no batch left computes another's, with no stories. When the run
        is asked to stop, the result is None, and the last.
        """
        world, rank = self.args.world_size, self.args.process_index
        passes = Batches(stories, self.join, rank)
        model: Any = self.model
        model.eval()
        for start in range(0, len(batches), world):
            if self.stop_wanted():
                yield [], None
                return
            shared = list(batches[start : start + world])
            mine = shared[rank] if rank < len(shared) else []
            shared += shared[:1] * (world - len(shared))
            inputs = self.to_device(passes[tuple(tuple((0, index) for index in one) for one in shared)])
            with torch.no_grad(), self.compute_loss_context_manager():
                found = compute(inputs)
            yield mine, found

    def over_processes(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes."""
        if self.args.world_size > 1:
            values = values.to(self.args.device)
            dist.all_reduce(values)
        return values

    def batches(self, stories: StoryDataset) -> list[list[int]]:
        """All stories in batches as a step has them."""
        lengths, size = stories.lengths, self.config.batch_size
        if self.config.pack_tokens:
            return plan.pack(lengths, self.config.pack_tokens)
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        return [order[start : start + size] for start in range(0, len(order), size)]

    # Stopping

    def stop_wanted(self) -> bool:
        """Whether any process was asked to stop. All processes get the same answer."""
        if self.args.world_size == 1:
            return self.watch.wanted
        flag = torch.tensor(float(self.watch.wanted), device=self.args.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        if flag:
            self.watch.stop("another process was asked to stop")
        return bool(flag)


def token_losses(model: Any, inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """The sum of the cross-entropies of all label tokens. Logits are computed only for columns that have a label.

    `labels` [batch, tokens] are `chat.IGNORED` where nothing is to be predicted; `inputs` are the model's other inputs.
    """
    targets = labels[:, 1:]
    columns = (targets != chat.IGNORED).any(dim=0).nonzero().squeeze(1)
    logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits
    return cross_entropy(
        logits.flatten(0, 1).float(), targets[:, columns].flatten(), ignore_index=chat.IGNORED, reduction="sum"
    )
