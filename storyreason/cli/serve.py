"""The verb `storyreason serve`."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    preset: Annotated[str, typer.Argument(help="The preset whose serving settings are used.")] = "sample",
    model: Annotated[
        Path | None,
        typer.Option(help="Serve this model folder. Default: the last deployment.", show_default=False),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="For example serving.port=8401.")
    ] = None,
) -> None:
    """Serve the storyteller at one address: an OpenAI-compatible API under /v1, and deployments without interruption."""
    from datetime import UTC, datetime

    from storyreason import config, home
    from storyreason.errors import ModelError
    from storyreason.serving.gateway import run
    from storyreason.serving.state import Served

    chosen = config.load_here(preset, override or [])
    first = None
    if model is not None:
        if not (model / "config.json").is_file():
            raise ModelError(f"{model} is not a model folder: it has no config.json. Name the folder that has one.")
        first = Served(str(model.absolute()), model.name, None, datetime.now(UTC).isoformat(timespec="seconds"))
    home.enter()
    run(chosen.serving, first)
