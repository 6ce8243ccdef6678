"""The command line: the library's verbs, one file per room. Other packages join theirs through an entry point."""

import os
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from storyreason import home, runs
from storyreason.cli import (
    check,
    detect,
    frames,
    identify,
    judge,
    models,
    page,
    plan,
    presets,
    sample,
    score,
    serve,
    tell,
)
from storyreason.errors import StoryReasonError

COMMANDS = "storyreason.commands"
"""The entry-point group of functions that add verbs to the command line: `def join(app: typer.Typer) -> None`."""
BEFORE: list[Callable[[], None]] = []
"""What joined packages do before any verb starts."""
SERVING = frozenset({"aiohttp", "fastapi", "prometheus-client", "starlette", "uvicorn", "vllm"})
"""Packages that only the checkout's lock installs."""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False)
for verb in (
    score.score,
    judge.judge,
    page.page,
    page.stats,
    serve.serve,
    tell.tell,
    models.merge,
    models.publish,
    check.check,
    check.read,
    frames.frames,
    detect.detect,
    identify.identify,
    plan.plan,
):
    app.command()(verb)
app.add_typer(sample.app, name="sample")
app.add_typer(presets.app, name="preset")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"storyreason {metadata.version('storyreason')}")
        raise typer.Exit


@app.callback(help="Fine-tune, evaluate, register and serve vision-language models that tell grounded stories.")
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--home",
            envvar=home.VARIABLE,
            help="The checkout to work for. Default: the nearest one at or above the current folder.",
            show_default=False,
        ),
    ] = None,
) -> None:
    if folder is not None:
        os.environ[home.VARIABLE] = str(folder.absolute())
    home.refuse_foreign_environment()
    for prepare in BEFORE:
        prepare()
    if home.checkout() is not None:
        runs.place()  # refuses one that was copied or moved, before anything is written


def main() -> None:
    """The entry point. A fault the user can fix is one line on stderr and exit code 2, without a stack trace."""
    try:
        join(app)
        app()
    except StoryReasonError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        advice = _advice(error.name or "")
        if advice is None:
            raise
        _fail(advice)


def join(app: typer.Typer) -> None:
    """Let every installed package of the `storyreason.commands` group add its verbs.

    The project's own wheel names `flows` there without holding it: what is not installed is skipped. An import that fails
    inside a package that is installed is an error.
    """
    for entry in metadata.entry_points(group=COMMANDS):
        try:
            add = entry.load()
        except ModuleNotFoundError as error:
            if error.name in (entry.module, entry.module.partition(".")[0]):
                continue
            raise
        add(app)


def _advice(module: str) -> str | None:
    """How to install a package that this installation lacks; None where the fault is in the import itself."""
    distribution = module.partition(".")[0].replace("_", "-")
    for requirement in metadata.requires("storyreason") or ():
        named = re.match(r"([\w-]+).*extra == \W(\w+)", requirement)
        if named and named[1] == distribution:
            return f"This needs {distribution}, which is not installed: pip install 'storyreason[{named[2]}]'."
    if distribution in SERVING:
        return f"This needs {distribution}, which is not installed: serving runs in a checkout, after `make install`."
    return None


def _fail(message: str) -> None:
    typer.secho(f"storyreason: {message}", fg="red", err=True)
    sys.exit(2)
