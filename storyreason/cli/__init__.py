"""The command line: the verbs that need the library alone, one file per room. `flows/cli.py` adds those that start flows."""

import sys

import typer

from storyreason.cli import check, models, page, sample, score, serve, tell
from storyreason.errors import StoryReasonError

app = typer.Typer(
    help="Fine-tune, evaluate, register and serve vision-language models that tell grounded stories.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
for verb in (
    score.score,
    page.page,
    page.stats,
    serve.serve,
    tell.tell,
    models.merge,
    models.publish,
    check.check,
    check.read,
):
    app.command()(verb)
app.add_typer(sample.app, name="sample")


def run(app: typer.Typer) -> None:
    """Run a command line: a fault that a person can mend is one line on stderr and exit code 2, no stack trace."""
    try:
        app()
    except StoryReasonError as error:
        typer.secho(f"storyreason: {error}", fg="red", err=True)
        sys.exit(2)
