"""The verb `storyreason merge`."""

from pathlib import Path
from typing import Annotated

import typer


def merge(
    result: Annotated[Path, typer.Argument(help="What a training left: an adapter's folder, or whole weights.")],
    base: Annotated[str, typer.Option(help="The base model that was trained: a folder, or a name on the Hub.")],
    out: Annotated[Path, typer.Option(help="The model folder to write; replaced when it is one.")],
    revision: Annotated[str | None, typer.Option(help="The base's revision on the Hub.")] = None,
) -> None:
    """Merge an adapter into its base: a model folder that transformers and vLLM load as it is, in the base's dtype."""
    from storyreason import model
    from storyreason.errors import ModelError

    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file()):
        raise ModelError(f"--out {out} is a file, or a folder with other things in it: name a new folder.")
    if not result.is_dir():
        raise ModelError(f"{result} is no folder: name the `result` folder of a training.")
    card = f"# Merged storyteller\n\n`{result.name}`, merged into the base model `{base}` by `storyreason merge`.\n"
    typer.echo(f"model folder: {model.write_folder(base, result, out, card, revision).absolute()}")
