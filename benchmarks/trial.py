"""One recipe of `benchmarks/training.py`, trained and measured in this process or in several."""

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from recipes import PACK, PER_STEP, Mode, Recipe, Size, recipes
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import is_flash_attn_2_available, is_liger_kernel_available
from worlds import Seven, Tiny, World

from storyreason import architecture
from storyreason.compat import liger
from storyreason.model import multiplies_bfloat16
from storyreason.training import TrainingConfig, packing, plan, setup, windows
from storyreason.training.measure import Cost, peak_memory, peak_operations
from storyreason.training.trainer import token_losses

SCALE = 10_000
"""Losses are sums over tokens, divided by this."""


class Feed:
    """What each step of a recipe trains on."""

    def __init__(self, recipe: Recipe, world: World, base: Any, pack: int, per_step: int, bf16: bool) -> None:
        self.recipe = recipe
        self.world = world
        self.pack = pack
        self.training = TrainingConfig(recompute=recipe.recompute, pack_tokens=pack)
        self.per_step = per_step
        self.rank, self.processes = (
            int(os.environ.get(key, ours)) for key, ours in (("RANK", "0"), ("WORLD_SIZE", "1"))
        )
        self.positions = packing.positions_of(base)
        self.loss: Literal["answer", "all"] = "answer" if recipe.answer_loss else "all"
        everything = range(len(world.lengths))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.seen: dict[int, Any] = {}
        if recipe.features:
            keep(base, world, everything, device, self.seen, bf16)
        self.ready = {index: world.inputs(index, self.loss) for index in everything} if recipe.prepared else {}

    def rows(self, step: int) -> list[list[int]]:
        """The rows of a step, which the processes take in turn."""
        chosen = [(step * self.per_step + place) % len(self.world.lengths) for place in range(self.per_step)]
        if not self.recipe.pack:
            return [[index] for index in chosen]
        packed = plan.pack([self.world.lengths[index] for index in chosen], self.pack, self.processes)
        return [[chosen[place] for place in row] for row in packed]

    def batch(self, row: Sequence[int]) -> dict[str, Any]:
        stories = [self._story(index) for index in row]
        if self.recipe.pack:
            joined: dict[str, Any] = packing.join(stories, self.positions)
        else:  # one story as a collator makes it: with a mask, and positions that the model computes
            tokens = {name: getattr(stories[0], name)[None] for name in ("input_ids", "labels", "mm_token_type_ids")}
            pictures = {name: getattr(stories[0], name) for name in ("pixel_values", "image_grid_thw")}
            joined = {**tokens, **pictures, "attention_mask": torch.ones_like(tokens["input_ids"])}
        if self.recipe.features:
            joined["features"] = joined.pop("pixel_values")
        return joined

    def _story(self, index: int) -> Any:
        made = self.ready.get(index) or self.world.inputs(index, self.loss)
        return dataclasses.replace(made, pixel_values=self.seen[index]) if index in self.seen else made


class Bench(Trainer):
    """The Trainer, whose batches are the rows of a step."""

    def __init__(self, feed: Feed, steps: int, **given: Any) -> None:
        self.feed = feed
        self.steps = steps
        super().__init__(**given)

    def get_train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader([self.feed.rows(step) for step in range(self.steps)], collate_fn=list)  # type: ignore[arg-type]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        feed = self.feed
        total, mine = torch.zeros((), device=self.args.device), inputs[0][feed.rank :: feed.processes]
        for number, row in enumerate(mine, 1):  # gradients are exchanged between processes in the last one
            with nullcontext() if number == len(mine) else self.accelerator.no_sync(model):
                batch = feed.batch(row)
                setup.recompute_if_long(model, feed.training, batch["input_ids"].shape[1])
                total += super().training_step(model, batch, num_items_in_batch)
        return total

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        labels = inputs.pop("labels")
        if "features" in inputs:
            bare: Any = self.model
            inputs["mm_encoder_outputs"] = architecture.as_seen(inputs.pop("features"), bare.config)
        if self.args.use_liger_kernel:
            return model(**inputs, labels=labels, skip_logits=True, num_items_in_batch=1).loss / SCALE
        if self.feed.recipe.answer_loss:
            return token_losses(model, inputs, labels) / SCALE
        logits = model(**inputs).logits[0, :-1].float()  # all of them, as in the published recipe
        return cross_entropy(logits, labels[0, 1:], reduction="sum") / SCALE

    def floating_point_ops(self, inputs: Any) -> int:
        return 0


class Clock(TrainerCallback):
    """Wall-clock and CPU seconds at the end of each step."""

    def __init__(self) -> None:
        self.laps: list[tuple[float, float]] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.laps.append((time.perf_counter(), time.process_time()))


def run(size: Size, mode: Mode, name: str, steps: int, longest: int | None) -> dict[str, Any]:
    """Train by one recipe, and return its figures over the steps after the first."""
    recipe = next(recipe for recipe in recipes(size, mode) if recipe.name == name)
    cuda, bf16, per_step = torch.cuda.is_available(), multiplies_bfloat16(), PER_STEP[size]
    world: World = Tiny(per_step * 3) if size == "tiny" else Seven(per_step * 3, longest)
    base = world.model().to(torch.bfloat16 if mode == "lora" and bf16 else torch.float32)
    base = prepared_model(base, mode, recipe, cuda and is_flash_attn_2_available())
    cost = Cost(base, mode)
    feed, clock = Feed(recipe, world, base, PACK[size], per_step, bf16), Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps + 1, per_device_train_batch_size=1, learning_rate=1e-4, bf16=bf16,
            gradient_checkpointing=recipe.recompute != "none", gradient_checkpointing_kwargs={"use_reentrant": False},
            use_liger_kernel=recipe.kernels and cuda and is_liger_kernel_available(), use_cpu=not cuda,
            save_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
            logging_strategy="no", max_grad_norm=1.0, ddp_find_unused_parameters=False,
        )  # fmt: skip
        trainer = Bench(feed, steps + 1, model=base, args=arguments, callbacks=[clock])
        if recipe.offload and cuda:
            offload(base, trainer)
        trainer.train()
    peak = peak_operations(torch.device("cuda" if cuda else "cpu"), bf16)
    return {"recipe": name, **figures(feed, cost, clock, steps, peak)}


def figures(feed: Feed, cost: Cost, clock: Clock, steps: int, peak: float) -> dict[str, float]:
    """Figures over all processes and the steps after the first."""
    world, processes = feed.world, feed.processes
    timed = [index for step in range(1, steps + 1) for row in feed.rows(step) for index in row]
    wall, cpu = (clock.laps[-1][which] - clock.laps[0][which] for which in (0, 1))
    cpu = sum(over_all(cpu, processes))
    seeing = 0 if feed.recipe.features else 1
    operations = sum(cost.of(world.lengths[i], world.answers[i], seeing * world.images[i]) for i in timed)
    answers = sum(world.answers[i] for i in timed)
    return {
        "passes_per_step": statistics.mean(len(feed.rows(step)) / processes for step in range(1, steps + 1)),
        "seconds_per_step": wall / steps,
        "cpu_seconds_per_step": cpu / steps,
        "tokens_per_s": sum(world.lengths[i] for i in timed) / wall,
        "answer_tokens_per_s": answers / wall,
        "answer_tokens_per_cpu_s": answers / cpu,
        "peak_memory_gb": sum(over_all(float(peak_memory()), processes)) / 1e9,
        "mfu": operations / wall / sum(over_all(peak, processes)),
    }


def over_all(value: float, processes: int) -> list[float]:
    """The value of each process."""
    values: list[Any] = [value] * processes
    if processes > 1:
        dist.all_gather_object(values, value)
    return values


def prepared_model(base: Any, mode: str, recipe: Recipe, flash: bool) -> Any:
    """The base, with its trained weights marked."""
    base.config.use_cache = False
    base.set_attn_implementation("flash_attention_2" if flash and recipe.kernels else "sdpa")
    if recipe.pack:
        packing.isolate(base)
        if recipe.kernels and torch.cuda.is_available() and not flash:
            windows.join(base)
        if recipe.kernels and torch.cuda.is_available() and recipe.recompute != "selective":
            liger.rotate(base)
    if mode == "language":
        base.model.visual.requires_grad_(False)
    if mode == "lora":
        targets = architecture.ATTENTION
        lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.1, target_modules=targets, task_type="CAUSAL_LM")
        # FSDP shards weights of a single dtype; without offload peft keeps adapters in float32.
        base = get_peft_model(base, lora, autocast_adapter_dtype=not recipe.offload)
        if recipe.pack:
            setup.without_copies(base)
        if recipe.recompute != "none":
            base.enable_input_require_grads()
    return base


def keep(base: Any, world: Any, indices: Sequence[int], device: Any, seen: dict[int, Any], bf16: bool) -> None:
    """Compute the features of all stories' pictures, in memory and before the clock starts: disk reads are not measured."""
    holder = architecture.inside(base)
    holder.visual.to(device)
    for index in indices:
        made = world.inputs(index, "answer")
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found = holder.get_image_features(
                made.pixel_values.to(device), made.image_grid_thw.to(device), return_dict=True
            )
        seen[index] = torch.cat(list(found.pooler_output)).cpu()


def offload(base: Any, trainer: Any) -> None:
    """Keep parameters, gradients and optimizer in the CPU's memory, as the published FSDP settings do. Not tested."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl", rank=0, world_size=1)
    base.to("cpu")
    policy = CPUOffloadPolicy()
    for module in base.modules():
        if type(module).__name__ in ("Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"):
            fully_shard(module, offload_policy=policy)
    fully_shard(base, offload_policy=policy)
    trainer.accelerator.device_placement = False
