"""The verbs `storyreason preset list` and `preset show`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

app = typer.Typer(help="Look at the presets and their parameters.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """List the presets with what each is for."""
    from storyreason import config

    names = config.presets()
    for name in names:
        typer.echo(f"{name:<{max(map(len, names))}}  {config.about(name)}")


@app.command()
def show(
    preset: Annotated[str, typer.Argument(help="A preset of deploy/presets, or a YAML file.")] = "sample",
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As `retrain` takes it.")
    ] = None,
) -> None:
    """Show every parameter as `--set` takes it, with its meaning; `*` marks those that differ from their default."""
    from storyreason import config

    chosen = config.load_here(preset, override or [])
    for key, value, default, meaning in _parameters(chosen):
        mark = " " if value == default else "*"
        typer.echo(f"{mark} {key}={_written(value)}  # {meaning}")


def _parameters(settings: "BaseModel", prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """The dotted key, value, default and description of each parameter, in the order of the configuration."""
    from pydantic import BaseModel

    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from _parameters(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value, field.get_default(call_default_factory=True), field.description or ""


def _written(value: Any) -> str:
    """A value as `--set` reads it."""
    import json

    import yaml

    plain = isinstance(value, str) and yaml.safe_load(value) == value
    return str(value) if plain else json.dumps(value)
