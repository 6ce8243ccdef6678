"""The figures of the README: the sample trained with three seeds in two precisions, as ranges. Hours on two cores.

python benchmarks/sample.py --out benchmarks/results/sample.json
python benchmarks/sample.py --seeds 1 --dtype float32 --preset smoke     to try it

Each run is `storyreason retrain PRESET --until evaluate` with its seed and precision, so that what is complete is not repeated
and a benchmark that was killed goes on. The base model is evaluated once in each precision. A run that is in the file already,
with the same data, base and settings, is not made again: six runs may be made on several days and machines.
"""

import json
import os
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from training import hardware

from flows import local
from storyreason import runs
from storyreason.config import load
from storyreason.scoring.catalogue import MAIN
from tasks import versioning

FIRST_SEED = 42
"""The presets' own."""


def sample(
    preset: Annotated[str, typer.Option(help="The preset.")] = "sample",
    seeds: Annotated[int, typer.Option(help="How many seeds.", min=1)] = 3,
    dtype: Annotated[list[str], typer.Option(help="The precisions.")] = ["bfloat16", "float32"],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Write the figures there as JSON.")] = None,
) -> None:
    made: list[dict[str, Any]] = json.loads(out.read_text())["runs"] if out and out.is_file() else []
    made = [run for run in made if run["of"] == identity(preset, run["dtype"], run["seed"])]
    wanted: list[dict[str, Any]] = [
        {"dtype": one, "seed": seed, "of": identity(preset, one, seed)}
        for one in dtype
        for seed in range(FIRST_SEED, FIRST_SEED + seeds)
    ]
    missing = [one for one in wanted if not any(one.items() <= run.items() for run in made)]
    typer.echo(f"{len(wanted) - len(missing)} of {len(wanted)} runs are in {out or 'no file'}")
    if missing:
        with local.platform():
            from flows.retrain import retrain

            for one in missing:
                outcome = retrain(preset, until="evaluate", overrides=overrides(one["dtype"], one["seed"]))
                for role in ("base", "challenger"):
                    scores = outcome.scores[role].metrics
                    made.append({"model": role, **one, "machine": machine(), "scores": scores})
                if out:
                    runs.write_text(out, json.dumps({"preset": preset, "runs": made}, indent=1) + "\n")
                typer.echo(f"{one['dtype']}, seed {one['seed']}: {json.dumps(outcome.seconds)}")
    typer.echo(table([run for run in made if any(one.items() <= run.items() for one in wanted)]))


def identity(preset: str, dtype: str, seed: int) -> str:
    """What the figures are made of: the versions of data and base, and all settings that decide."""
    config = load(preset, overrides(dtype, seed))
    targets = config.data.target, f"{config.base.name}.dvc"
    versions = [versioning.identify(one, None).md5 for one in targets if Path(one).is_file()]
    settings = config.model_dump(mode="json", include={"training", "generation", "evaluation"})
    return runs.fingerprint(versions=versions, **settings)


def machine() -> str:
    """The machine in words, such as "2 cores of AMD EPYC, torch 2.11.0"."""
    found = hardware()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{found['cores']} cores of {names[0] if names else os.uname().machine}, torch {found['torch']}"


def overrides(dtype: str, seed: int) -> list[str]:
    """A seed, training and decoding in one precision. Such versions are kept apart from the storyteller's."""
    chosen = {"training.seed": seed, "training.dtype": dtype, "serving.dtype": dtype, "model": "sample-figures"}
    return [f"{key}={value}" for key, value in chosen.items()]


def table(made: list[dict[str, Any]]) -> str:
    """A Markdown table of the main scores: mean (lowest to highest) over the runs of each model and decoding."""
    columns = [(model, decoding) for model in ("base", "challenger") for decoding in ("free", "grounded")]
    lines = ["| | " + " | ".join(f"{model}, {decoding}" for model, decoding in columns) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for score in MAIN:
        cells = []
        for model, decoding in columns:
            found = [run["scores"].get(f"{decoding}/{score.name}") for run in made if run["model"] == model]
            known = [value for value in found if value is not None]
            cells.append(f"{fmean(known):.3f} ({min(known):.3f} to {max(known):.3f})" if known else "")
        if any(cells):
            lines.append(f"| {score.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(sample)
