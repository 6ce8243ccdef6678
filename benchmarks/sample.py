"""The figures of the README: the sample trained with three seeds in two precisions, as ranges. Hours on two cores.

python benchmarks/sample.py --out benchmarks/results/sample.json
python benchmarks/sample.py --seeds 1 --dtype float32 --preset smoke     to try it

Each run is `storyreason retrain PRESET --until evaluate` with its seed and precision, so that what is complete is not repeated
and a benchmark that was killed goes on. The base model is evaluated once in each precision.
"""

import json
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from training import hardware

from flows import local
from storyreason.scoring.catalogue import HEADLINES

FIRST_SEED = 42
"""The presets' own."""


def sample(
    preset: Annotated[str, typer.Option(help="The preset.")] = "sample",
    seeds: Annotated[int, typer.Option(help="How many seeds.", min=1)] = 3,
    dtype: Annotated[list[str], typer.Option(help="The precisions.")] = ["bfloat16", "float32"],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Write the figures there as JSON.")] = None,
) -> None:
    runs = []
    with local.platform():
        from flows.retrain import retrain

        for precision in dtype:
            for seed in range(FIRST_SEED, FIRST_SEED + seeds):
                outcome = retrain(preset, until="evaluate", overrides=overrides(precision, seed))
                for role in ("base", "challenger"):
                    runs.append(
                        {"model": role, "dtype": precision, "seed": seed, "scores": outcome.scores[role].metrics}
                    )
                typer.echo(f"{precision}, seed {seed}: {json.dumps(outcome.seconds)}")
    typer.echo(table(runs))
    if out:
        out.write_text(json.dumps({"preset": preset, "machine": hardware(), "runs": runs}, indent=1) + "\n")


def overrides(dtype: str, seed: int) -> list[str]:
    """A seed, training and decoding in one precision. Such versions are kept apart from the storyteller's."""
    chosen = {"training.seed": seed, "training.dtype": dtype, "serving.dtype": dtype, "model": "sample-figures"}
    return [f"{key}={value}" for key, value in chosen.items()]


def table(runs: list[dict[str, Any]]) -> str:
    """A Markdown table of the main scores: mean (lowest to highest) over the runs of each model and decoding."""
    columns = [(model, decoding) for model in ("base", "challenger") for decoding in ("free", "grounded")]
    lines = ["| | " + " | ".join(f"{model}, {decoding}" for model, decoding in columns) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for score in HEADLINES:
        cells = []
        for model, decoding in columns:
            found = [run["scores"].get(f"{decoding}/{score.name}") for run in runs if run["model"] == model]
            known = [value for value in found if value is not None]
            cells.append(f"{fmean(known):.3f} ({min(known):.3f} to {max(known):.3f})" if known else "")
        lines.append(f"| {score.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(sample)
