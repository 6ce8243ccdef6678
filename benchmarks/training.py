"""How fast a model is trained: the published recipe and this project's, on the same model and the same stories.

python benchmarks/training.py tiny --mode lora             two cores, the sample world, a model of 4 M parameters
python benchmarks/training.py 7b --mode lora               a GPU, Qwen2.5-VL-7B's shape with random weights, no download

    a        the published recipe: batch 1, padding collator, loss over all text, activation checkpointing, pictures decoded
             and texts tokenized in the loop, the vision tower in every pass; on a GPU, parameters in the CPU's memory
    a'       the same without that offload (on a CPU there is none: a and a' are the same)
    b        this project's: rows of whole stories, loss and logits on the answer only, cached features, nothing done twice
    b -x     the same without one optimization, to show its effect (`b +recomputing`: with activation checkpointing)

All of them compute in bfloat16, as the published recipe does, where the machine has instructions for it, and on a CPU with
one process per core, which is faster for all of them than threads. The recipes run in turn, --rounds times; ratios are
taken within a round. Seconds are wall-clock seconds and CPU seconds: on a busy machine, only ratios of the latter mean
anything. benchmarks/results has figures from two cores; there are none from GPUs yet.
liger-kernel and flash-attn are used if they are installed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes import Mode, Size, recipes

RESULTS = Path(__file__).parent / "results"


def together(
    size: Size, mode: Mode, steps: int, rounds: int, only: Sequence[str], longest: int | None, processes: int
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
                sys.stderr.write(f"{name} failed with code {done.returncode} and is left out (see above).\n")
                continue
            runs[-1].append(json.loads(done.stdout.splitlines()[-1]))
            sys.stderr.write(f"round {number + 1}: {name} {runs[-1][-1]['cpu_seconds_per_step']:.2f} CPU s a step\n")
    about = {"size": size, "mode": mode, "steps": steps, "processes": processes, "machine": hardware()}
    return {**about, "rounds": runs, "summary": summary(runs)}


def summary(runs: Sequence[Sequence[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """For each recipe the medians over the rounds, and the median ratios of its answer tokens/s to those of a, a' and b in the
    same round."""
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

    from storyreason.model import multiplies_bfloat16

    found: dict[str, Any] = {
        "torch": torch.__version__,
        "dtype": "bfloat16" if multiplies_bfloat16() else "float32",
        "cores": len(os.sched_getaffinity(0)),
        "os": platform.platform(),
    }
    found["load"] = os.getloadavg()[0]
    if found["load"] > found["cores"] + 1:
        found["note"] = "The machine was busy: only ratios of CPU seconds within a round mean anything."
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=["tiny", "7b"])
    parser.add_argument("--mode", choices=["lora", "full", "language"], default="lora")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps to time, after one that is not timed")
    parser.add_argument("--rounds", type=int, default=3, help="how many times all recipes run")
    parser.add_argument("--only", nargs="*", default=[], help="only these recipes, by name")
    parser.add_argument("--longest", type=int, help="7b: the tokens of every story, for instance 32768")
    parser.add_argument("--recipe", help="run this recipe in this process and print its figures")
    parser.add_argument("--processes", type=int, help="processes of each recipe (default: one per core; on a GPU one)")
    chosen = parser.parse_args()
    if chosen.recipe:
        import trial

        found = trial.run(chosen.size, chosen.mode, chosen.recipe, chosen.steps, chosen.longest)
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
