"""How fast a storyteller is trained: the published recipe, and this project's, on the same model and the same stories.

python benchmarks/training.py tiny --mode lora             two cores, the sample world, a model of 4 M parameters
python benchmarks/training.py 7b --mode lora               a GPU, Qwen2.5-VL-7B's shape with random weights, no download

    a        the published recipe: batch 1, padding collator, loss over all text, recomputing, pictures decoded and texts
             tokenized in the loop, the vision tower in every pass; on a GPU its parameters lie in the CPU's memory
    a'       the same without that offload (on a CPU there is none: a and a' are one)
    b        this project's: rows of whole stories, loss and logits on the answer alone, features kept, nothing done twice
    b -x     the same without one of its tricks: its own share (`b +recomputing` with what it goes without)

All of them compute in bfloat16, as the published recipe does, where the machine multiplies it fast, and on a CPU with a
process for each core, which is faster for all of them than threads. Recipes run one after the other, in turn, so often as
--rounds says; ratios are taken within a round.
Seconds are of the clock and of this process' CPU time: where other programs run beside, only ratios of the second count.
Figures of two cores are in benchmarks/results; there was no GPU to measure on.
`7b` needs torch, transformers, peft, accelerate and Pillow; liger-kernel and flash-attn are used where they are installed.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PACK = {"tiny": 4096, "7b": 32_768}
PER_STEP = {"tiny": 8, "7b": 8}
"""Stories of an optimizer step."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is switched on."""

    name: str
    pack: bool = False
    features: bool = False
    answer_loss: bool = False
    prepared: bool = False
    recompute: bool = True
    kernels: bool = True
    """Liger and FlashAttention where they are; the published recipe has them too."""
    offload: bool = False


def recipes(size: str, mode: str) -> list[Recipe]:
    """The published recipe first, then ours, then ours without each of its tricks."""
    ours = Recipe("b", pack=True, features=mode != "full", answer_loss=True, prepared=True, recompute=size == "7b")
    without = [
        dataclasses.replace(ours, name="b -packing", pack=False),
        dataclasses.replace(ours, name="b -features", features=False),
        dataclasses.replace(ours, name="b -answer loss", answer_loss=False),
        dataclasses.replace(ours, name="b -prepared", prepared=False, features=False),
        dataclasses.replace(ours, name="b +recomputing", recompute=True),
        dataclasses.replace(ours, name="b -kernels", kernels=False),
    ]
    published = [Recipe("a'")] if size == "tiny" else [Recipe("a", offload=True), Recipe("a'")]
    skipped = {"b -kernels"} if size == "tiny" else {"b +recomputing"}
    if mode == "full":
        skipped.add("b -features")
    return [*published, ours, *(one for one in without if one.name not in skipped)]


def library() -> None:
    """Import this checkout's `storyreason.training` part by part: the whole wants pydantic, which `7b` does not need."""
    sys.path.insert(0, str(ROOT))
    package = types.ModuleType("storyreason.training")
    package.__path__ = [str(ROOT / "storyreason" / "training")]
    sys.modules["storyreason.training"] = package


def one(size: str, mode: Any, name: str, steps: int, longest: int | None) -> dict[str, Any]:
    """Train by one recipe in this process, and others beside it, and give what was measured of the steps after the first."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.utils import is_flash_attn_2_available, is_liger_kernel_available
    from worlds import Seven, Tiny

    from storyreason.training import features, machine, packing, plan
    from storyreason.training.measure import Cost, peak_memory, peak_operations
    from storyreason.training.trainer import token_losses

    recipe = next(recipe for recipe in recipes(size, mode) if recipe.name == name)
    cuda, bf16, per_step = torch.cuda.is_available(), machine.multiplies_bfloat16(), PER_STEP[size]
    rank, processes = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    world: Any = Tiny(per_step * 3) if size == "tiny" else Seven(per_step * 3, longest)
    base = world.model().to(torch.bfloat16 if mode == "lora" and bf16 else torch.float32)
    base = prepared_model(base, mode, recipe, cuda and is_flash_attn_2_available())
    counted = Cost(base, mode)
    loss: Literal["answer", "all"] = "answer" if recipe.answer_loss else "all"
    positions, ready = packing.positions_of(base), {}
    seen: dict[int, Any] = {}
    device = torch.device("cuda" if cuda else "cpu")
    if recipe.features:
        keep(base, world, range(len(world.lengths)), device, seen, bf16)
    if recipe.prepared:
        ready = {index: world.inputs(index, loss) for index in range(len(world.lengths))}

    def story(index: int) -> Any:
        made = ready.get(index) or world.inputs(index, loss)
        return dataclasses.replace(made, pixel_values=seen[index]) if index in seen else made

    def batch(row: Sequence[int]) -> dict[str, Any]:
        stories = [story(index) for index in row]
        if recipe.pack:
            joined = packing.join(stories, positions)
        else:  # one story, as a collator gives it: a mask, and positions that the model works out
            tokens = {name: getattr(stories[0], name)[None] for name in ("input_ids", "labels", "mm_token_type_ids")}
            pictures = {name: getattr(stories[0], name) for name in ("pixel_values", "image_grid_thw")}
            joined = {**tokens, **pictures, "attention_mask": torch.ones_like(tokens["input_ids"])}
        if recipe.features:
            joined["features"] = joined.pop("pixel_values")
        return joined

    def rows(step: int) -> list[list[int]]:
        """Those of all processes, which take them in turn."""
        chosen = [(step * per_step + place) % len(world.lengths) for place in range(per_step)]
        if not recipe.pack:
            return [[index] for index in chosen]
        packed = plan.pack([world.lengths[index] for index in chosen], PACK[size], processes)
        return [[chosen[place] for place in row] for row in packed]

    class Bench(Trainer):
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader([rows(step) for step in range(steps + 1)], collate_fn=list)  # type: ignore[arg-type]

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
            total, mine = torch.zeros((), device=self.args.device), inputs[0][rank::processes]
            for number, row in enumerate(mine, 1):  # gradients meet those of other processes in the last one
                with nullcontext() if number == len(mine) else self.accelerator.no_sync(model):
                    total += super().training_step(model, batch(row), num_items_in_batch)
            return total

        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
            labels = inputs.pop("labels")
            if "features" in inputs:
                inputs["mm_encoder_outputs"] = features.as_seen(inputs.pop("features"))
            if self.args.use_liger_kernel:
                return model(**inputs, labels=labels, skip_logits=True, num_items_in_batch=1).loss / 10_000
            if recipe.answer_loss:
                return token_losses(model, inputs, labels) / 10_000
            logits = model(**inputs).logits[0, :-1].float()  # all of them, as the published recipe makes them
            return torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum") / 10_000

        def floating_point_ops(self, inputs: Any) -> int:
            return 0

    clock: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if cuda:
                torch.cuda.synchronize()
            clock.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps + 1, per_device_train_batch_size=1, learning_rate=1e-4, bf16=bf16,
            gradient_checkpointing=recipe.recompute, gradient_checkpointing_kwargs={"use_reentrant": False},
            use_liger_kernel=recipe.kernels and cuda and is_liger_kernel_available(), use_cpu=not cuda,
            save_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
            logging_strategy="no", max_grad_norm=1.0, ddp_find_unused_parameters=False,
        )  # fmt: skip
        trainer = Bench(model=base, args=arguments, callbacks=[Clock()])
        if recipe.offload and cuda:
            offload(base, trainer)
        trainer.train()
    timed = [index for step in range(1, steps + 1) for row in rows(step) for index in row]
    wall, cpu = (clock[-1][which] - clock[0][which] for which in (0, 1))
    cpus, memories = over_all(cpu, processes), over_all(float(peak_memory()), processes)
    cpu = sum(cpus)
    seeing = 0 if recipe.features else 1
    operations = sum(counted.of(world.lengths[i], world.answers[i], seeing * world.images[i]) for i in timed)
    return {
        "recipe": name,
        "passes_per_step": statistics.mean(len(rows(step)) / processes for step in range(1, steps + 1)),
        "seconds_per_step": wall / steps,
        "cpu_seconds_per_step": cpu / steps,
        "tokens_per_s": sum(world.lengths[i] for i in timed) / wall,
        "answer_tokens_per_s": sum(world.answers[i] for i in timed) / wall,
        "answer_tokens_per_cpu_s": sum(world.answers[i] for i in timed) / cpu,
        "peak_memory_gb": sum(memories) / 1e9,
        "mfu": operations / wall / sum(over_all(peak_operations(device, bf16), processes)),
    }


def over_all(value: float, processes: int) -> list[float]:
    """The value of each process."""
    import torch.distributed as dist

    values: list[Any] = [value] * processes
    if processes > 1:
        dist.all_gather_object(values, value)
    return values


def prepared_model(base: Any, mode: str, recipe: Recipe, flash: bool) -> Any:
    """The base with what is trained marked so."""
    from storyreason.training import packing

    base.config.use_cache = False
    base.set_attn_implementation("flash_attention_2" if flash and recipe.kernels else "sdpa")
    if recipe.pack:
        packing.isolate(base)
    if mode == "language":
        base.model.visual.requires_grad_(False)
    if mode == "lora":
        from peft import LoraConfig, get_peft_model

        targets = r".*language_model.*\.self_attn\.[qkvo]_proj"
        lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.1, target_modules=targets, task_type="CAUSAL_LM")
        # FSDP shards weights of one dtype; else peft keeps adapters in float32.
        base = get_peft_model(base, lora, autocast_adapter_dtype=not recipe.offload)
        if recipe.recompute:
            base.enable_input_require_grads()
    return base


def keep(base: Any, world: Any, indices: Sequence[int], device: Any, seen: dict[int, Any], bf16: bool) -> None:
    """The features of all stories' pictures, before the clock starts. In memory: reading a disk is not what is measured."""
    import torch

    from storyreason.training import features

    holder = features.tower_of(base)
    holder.visual.to(device)
    for index in indices:
        made = world.inputs(index, "answer")
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found = holder.get_image_features(
                made.pixel_values.to(device), made.image_grid_thw.to(device), return_dict=True
            )
        seen[index] = torch.cat(list(found.pooler_output)).cpu()


def offload(base: Any, trainer: Any) -> None:
    """Parameters, gradients and optimizer in the CPU's memory, as the published FSDP settings have it. Never run by us."""
    import torch
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl", rank=0, world_size=1)
    base.to("cpu")
    policy = CPUOffloadPolicy()
    for module in base.modules():
        if type(module).__name__ in ("Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"):
            fully_shard(module, offload_policy=policy)
    fully_shard(base, offload_policy=policy)
    trainer.accelerator.device_placement = False


def together(
    size: str, mode: str, steps: int, rounds: int, only: Sequence[str], longest: int | None, processes: int
) -> dict[str, Any]:
    """All recipes in turn, `rounds` times, each in processes of its own."""
    names = [recipe.name for recipe in recipes(size, mode) if not only or recipe.name in only]
    runs: list[list[dict[str, Any]]] = []
    for number in range(rounds):
        runs.append([])
        for name in names:
            command = [sys.executable]
            if processes > 1:
                command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
            command += [__file__, size, "--mode", mode, "--steps", str(steps), "--recipe", name]
            if longest:
                command += ["--longest", str(longest)]
            threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // processes))}
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads, "PYTHONWARNINGS": "ignore"}
            )
            if done.returncode:
                sys.stderr.write(f"{name} failed with code {done.returncode}: left out (see above).\n")
                continue
            runs[-1].append(json.loads(done.stdout.splitlines()[-1]))
            sys.stderr.write(f"round {number + 1}: {name} {runs[-1][-1]['cpu_seconds_per_step']:.2f} CPU s a step\n")
    about = {"size": size, "mode": mode, "steps": steps, "processes": processes, "machine": hardware()}
    return {**about, "rounds": runs, "summary": summary(runs)}


def summary(runs: Sequence[Sequence[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """By recipe: medians over the rounds, and the median ratio of answer tokens/s to b's and to a''s in the same round."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(run["recipe"] for round_ in runs for run in round_):
        mine = [{run["recipe"]: run for run in round_} for round_ in runs]
        mine = [by_name for by_name in mine if name in by_name]
        numbers = {key for by_name in mine for key, value in by_name[name].items() if key != "recipe"}
        found[name] = {key: statistics.median(one[name][key] for one in mine) for key in sorted(numbers)}
        for other in ("a", "a'", "b"):
            for unit in ("answer_tokens_per_s", "answer_tokens_per_cpu_s"):
                ratios = [one[name][unit] / one[other][unit] for one in mine if other in one]
                if ratios:
                    found[name][f"{unit} over {other}"] = statistics.median(ratios)
    return found


def hardware() -> dict[str, Any]:
    import torch

    from storyreason.training import machine

    found: dict[str, Any] = {
        "torch": torch.__version__,
        "dtype": "bfloat16" if machine.multiplies_bfloat16() else "float32",
        "cores": len(os.sched_getaffinity(0)),
        "os": platform.platform(),
    }
    found["load"] = os.getloadavg()[0]
    if found["load"] > found["cores"] + 1:
        found["note"] = "Shared with other programs: nothing but ratios of CPU seconds within a round says anything."
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=["tiny", "7b"])
    parser.add_argument("--mode", choices=["lora", "full", "language"], default="lora")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps that are timed, after one that is not")
    parser.add_argument("--rounds", type=int, default=3, help="how often all recipes run")
    parser.add_argument("--only", nargs="*", default=[], help="these recipes alone, by name")
    parser.add_argument("--longest", type=int, help="7b: every story of so many tokens, for instance 32768")
    parser.add_argument("--recipe", help="run this one in this process and print its figures")
    parser.add_argument(
        "--processes", type=int, help="processes of each recipe; else one for each core, or one on a GPU"
    )
    chosen = parser.parse_args()
    library()
    if chosen.recipe:
        found = one(chosen.size, chosen.mode, chosen.recipe, chosen.steps, chosen.longest)
        if int(os.environ.get("RANK", "0")) == 0:
            print(json.dumps(found))  # noqa: T201
        return
    processes = chosen.processes or (1 if chosen.size == "7b" else len(os.sched_getaffinity(0)))
    found = together(chosen.size, chosen.mode, chosen.steps, chosen.rounds, chosen.only, chosen.longest, processes)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"training-{chosen.size}-{chosen.mode}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    show(found["summary"])
    sys.stdout.write(f"{path}\n")


def show(rows: dict[str, dict[str, float]]) -> None:
    columns = (
        "seconds_per_step",
        "cpu_seconds_per_step",
        "tokens_per_s",
        "answer_tokens_per_s",
        "peak_memory_gb",
        "mfu",
    )
    ratios = ("answer_tokens_per_s over a'", "answer_tokens_per_cpu_s over a'", "answer_tokens_per_cpu_s over b")
    for name, row in rows.items():
        figures = [f"{key} {row[key]:.3g}" for key in (*columns, *ratios) if key in row]
        sys.stdout.write(f"{name:18} " + "  ".join(figures) + "\n")


if __name__ == "__main__":
    main()
