"""The verbs that change the data, `storyreason data ...`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from storyreason import home
from storyreason.cli.options import DryRun, Private

data = typer.Typer(
    help="Change the data: every change is checked, reported and a new DVC version.", no_args_is_help=True
)

Target = Annotated[str, typer.Option(help="The DVC file of the data.")]


@data.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(help="A folder or file that `datasets` can load, or a data set's name on the Hub.")
    ],
    target: Target = "data.dvc",
    revision: Annotated[str | None, typer.Option(help="The Hub's revision.", show_default=False)] = None,
    configuration: Annotated[
        str | None, typer.Option(help="Which configuration of a data set that has several.", show_default=False)
    ] = None,
) -> None:
    """Replace the data by SOURCE: check it, report on it, and make it a new DVC version."""
    from storyreason import dataset

    local = Path(source).expanduser()
    _change(target, str(local.absolute()) if local.exists() else source, dataset.adopt, revision, configuration)


@data.command()
def add(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder or file that `datasets` can load, with new stories.", exists=True, resolve_path=True
        ),
    ],
    target: Target = "data.dvc",
) -> None:
    """Add the stories of FOLDER as new shards. Existing stories stay in their splits; duplicates are refused."""
    from storyreason import dataset

    _change(target, str(folder), dataset.append)


@data.command()
def announce(target: Target = "data.dvc") -> None:
    """Announce the current data version to Prefect, as `add` does: for one that came with a Git pull or whose event was lost."""
    from flows import local, report

    home.enter()
    local.prepare()
    from tasks import data

    report.say(data.announce(target))


@data.command()
def withdraw(
    film: Annotated[str, typer.Argument(help="The film, by its name in the data.")],
    entity: Annotated[
        str | None, typer.Option(help="Only the stories with this person or thing of the film, such as char3.")
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            help="The folder of frames and detections, which lose it as well.", exists=True, resolve_path=True
        ),
    ] = None,
    corrections: Annotated[
        Path | None, typer.Option(help="The corrections that IDs were made with.", exists=True, resolve_path=True)
    ] = None,
    target: Target = "data.dvc",
) -> None:
    """Remove a film, or the stories that show one of its people, from the data and from what was kept to make them."""
    from flows import local, report

    home.enter()
    local.prepare()
    from tasks import withdrawing

    report.say(withdrawing.withdraw(target, film, entity, frames, corrections))


@data.command()
def publish(
    folder: Annotated[
        Path, typer.Argument(help="A folder of parquet shards.", exists=True, file_okay=False, resolve_path=True)
    ],
    to: Annotated[str, typer.Option(help="The repository on the Hub, user/stories; created if it does not exist.")],
    licence: Annotated[
        str | None, typer.Option(help="The licence, such as cc-by-4.0. Default: that of the card.", show_default=False)
    ] = None,
    private: Private = False,
    dry_run: DryRun = False,
) -> None:
    """Publish a data set on the Hub, with its card."""
    from flows import report
    from storyreason import publishing

    made = publishing.prepare_data(folder, to, licence)
    report.say(made.summary())
    report.say(
        f"\n{made.card}\nnothing was uploaded (--dry-run)"
        if dry_run
        else f"published: {publishing.publish_data(made, private)}"
    )


def _change(target: str, source: str, how: Any, revision: str | None = None, configuration: str | None = None) -> None:
    from flows import local, report

    home.enter()
    local.prepare()  # before Prefect is imported and reads its settings
    from tasks import data

    report.say(data.change(target, source, how, revision, configuration))
