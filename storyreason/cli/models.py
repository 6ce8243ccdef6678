"""The verbs for the result of a training: `storyreason merge` and `storyreason publish`."""

from pathlib import Path
from typing import Annotated

import typer

from storyreason.cli.options import DryRun, Dtype, Private, refuse_other_contents


def merge(
    result: Annotated[
        Path, typer.Argument(help="The result of a training: the folder of an adapter, or of whole weights.")
    ],
    base: Annotated[str, typer.Option(help="The base model of the training: a folder, or a name on the Hub.")],
    out: Annotated[Path, typer.Option(help="The model folder to write. An existing model folder is replaced.")],
    revision: Annotated[str | None, typer.Option(help="The base's revision on the Hub.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Data type of the weights; auto: that of the base.")] = "auto",
) -> None:
    """Merge an adapter into its base: a model folder that transformers and vLLM can load."""
    from storyreason import model
    from storyreason.errors import ModelError

    refuse_other_contents(out)
    if not result.is_dir():
        raise ModelError(f"{result} is not a folder: name the `result` folder of a training.")
    card = f"# Merged storyteller\n\n`{result.name}`, merged into the base model `{base}` by `storyreason merge`.\n"
    written = model.write_folder(base, result, out, card, revision, dtype, say=typer.echo)
    typer.echo(f"model folder: {written.absolute()}")


def publish(
    folder: Annotated[Path, typer.Argument(help="A model folder: that of a registered version, or one `merge` wrote.")],
    to: Annotated[str, typer.Option(help="The repository on the Hub, user/model; created if it does not exist.")],
    scores: Annotated[
        list[Path] | None,
        typer.Option(help="An evaluation's scorecard (`free-scorecard.json`), for the card. Repeatable."),
    ] = None,
    private: Private = False,
    dry_run: DryRun = False,
) -> None:
    """Publish a model folder on the Hub: weights, processor, and a card with data version, scores and usage."""
    from storyreason import publishing

    cards = {path.name.removesuffix(".json").removesuffix("-scorecard"): path for path in scores or []}
    made = publishing.prepare(folder, to, cards)
    typer.echo(made.summary())
    if dry_run:
        typer.echo(f"\n{made.card}\nnothing was uploaded (--dry-run)")
        return
    typer.echo(f"published: {publishing.publish(made, private)}")
