"""The verb `storyreason plan`."""

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from storyreason.cli.options import load_in_checkout

if TYPE_CHECKING:
    from storyreason.config import RunConfig
    from storyreason.training.choosing import Choice
    from storyreason.training.config import ImproveConfig
    from storyreason.training.memory import Row

IMPROVING = {
    "dpo": "pairs of two answers, each with the prompt, in one row",
    "grpo": "the model's answers; the engine that gives them takes turns with the training, and is not counted",
}


def plan(
    preset: Annotated[str, typer.Argument(help="A preset of deploy/presets, or a YAML file.")] = "sample",
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs of one machine to train on. Default: as the preset says.")
    ] = None,
    gb: Annotated[
        float | None,
        typer.Option(min=1, help="The memory of each GPU in GB. Default: this machine's, or 80 where it has no GPU."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A data set with stories to train on. Default: rows as long as the settings allow.", resolve_path=True
        ),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As `retrain` takes it.")
    ] = None,
) -> None:
    """Estimate the memory that a training takes, and which settings would fit, from the base's configuration alone."""
    from storyreason import model
    from storyreason.errors import ModelError
    from storyreason.training import choosing, memory
    from storyreason.training.machine import Machine

    _, chosen = load_in_checkout(preset, override)
    training = choosing.on_gpus(chosen.training, gpus) if gpus else chosen.training
    chosen = chosen.model_copy(update={"training": training})
    if not Path(name := chosen.base.name).is_dir() and Path(f"{name}.dvc").is_file():
        raise ModelError(f"The base model {name} has not been fetched yet: `dvc pull {name}.dvc`.")
    base = model.config(chosen.base.name, chosen.base.revision)
    place, improve = Machine.of(training), chosen.improve if chosen.improve.method != "none" else None
    room = gb or choosing.capacity(training) or 80.0
    where = f"{place.processes} {'process' if place.on_cpu else 'GPU'}{'es' if place.on_cpu else 's'}"
    made = []
    for step in (None, improve) if improve else (None,):
        rows = _largest(chosen, data, step) if data else ()
        tokens = max(row.tokens for row in rows or choosing.rows_of(training, step))
        what = f"{chosen.base.name}, training.mode={training.mode}"
        if step:
            what = f"then improve.method={step.method} ({IMPROVING[step.method]})"
        typer.echo(f"{what}, rows of up to {tokens:,} tokens, {where}; GB of each:")
        ones = choosing.choices(base, training, rows, step)
        _show(first := next(ones), room)
        made.append(chain((first,), ones))
    if improve:
        typer.echo("The larger of both, and with other settings:")
    for of_both in zip(*made, strict=True):
        total = max(one.memory.total for one in of_both)
        fits = "fits" if total <= room * memory.GB else "too much"
        typer.echo(f"{total / memory.GB:8.1f} GB  {fits:<9} {of_both[0].words()}")


def _show(choice: "Choice", room: float) -> None:
    from storyreason.training.memory import GB

    for name, size in vars(choice.memory).items():
        typer.echo(f"  {name:<12}{size / GB:8.1f}")
    typer.echo(f"  {'total':<12}{choice.memory.total / GB:8.1f} of {room:.0f}")


def _largest(chosen: "RunConfig", data: Path, improve: "ImproveConfig | None") -> "tuple[Row, ...]":
    """The largest rows of the stories of a data set, or of their pairs; none for answers that a model will give."""
    from storyreason import chat, dataset, model, runs
    from storyreason.training import Job, memory, process
    from storyreason.training.machine import Machine

    if improve and improve.method == "grpo":
        return ()
    job = Job(
        base=chosen.base.name,
        revision=chosen.base.revision,
        data=data,
        stories=chosen.data.train_stories,
        work=runs.root() / "plan",
        prepared=runs.root() / "prepared",
        training=chosen.training if improve is None else improve.of(chosen.training),
        improve=improve,
    )
    encoder = chat.Encoder(model.load_processor(job.base, job.revision), chosen.training.images_first)
    examples = dataset.load(data, "train")
    stories, _, schedule = process.scheduled(examples, job, encoder, Machine.of(chosen.training).processes)
    return memory.largest(stories, schedule, chosen.training)
