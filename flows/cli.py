"""The verbs that start flows or change the platform. They join the library's command line as an entry point."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows import changing
from storyreason import cli, home, resources, runs
from storyreason.cli.options import load_in_checkout
from storyreason.cli.tell import RESOLVERS
from storyreason.errors import RunError
from tasks.results import Stage, Until

app = typer.Typer()
app.add_typer(changing.data, name="data", rich_help_panel="Platform")

PRESETS = (
    f"A preset ({', '.join(resources.presets())}) or a YAML file; `storyreason preset show sample` shows parameters."
)
Preset = Annotated[str, typer.Argument(help=PRESETS)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a value of the preset: --set training.learning_rate=1e-4."
    ),
]


@app.command(rich_help_panel="Flows")
def retrain(
    preset: Preset = "sample",
    override: Overrides = None,
    until: Annotated[Until, typer.Option(help="The last step to run.")] = "deploy",
) -> None:
    """Pull data, fine-tune, register, evaluate, decide, and serve the new storyteller if it is better."""
    preset, chosen = load_in_checkout(preset, override)
    from flows import local, report

    with local.platform():
        from flows.retrain import retrain as flow

        report.quiet_failures()
        outcome = flow(preset, overrides=override, until=until)
    report.show(outcome, chosen)


@app.command(rich_help_panel="Flows")
def evaluate(
    version: Annotated[
        str,
        typer.Argument(help="A version's number or alias in MLflow; `base`; or a model's folder or name on the Hub."),
    ] = "champion",
    preset: Annotated[str, typer.Option(help="The preset whose data and decoding are used.")] = "sample",
    override: Overrides = None,
) -> None:
    """Score a registered version, the base model, or any other model on the test split."""
    if Path(version).is_dir() and not Path(version).is_absolute():
        version = os.path.relpath(version, home.folder())  # where the flow runs
    preset, _ = load_in_checkout(preset, override)
    from flows import local, report

    with local.platform():
        from flows.evaluate import evaluate as flow

        report.quiet_failures()
        result = flow(version, preset, overrides=override)
    report.show_scores({version: result.metrics})
    report.show_pages({version: result.run_id})
    for decoding, page in result.pages.items():
        report.say(f"stories, {decoding} decoding: {page}")


@app.command(rich_help_panel="Flows")
def deploy(
    version: Annotated[
        str, typer.Argument(help="A version's number or alias in MLflow; `previous` rolls back.")
    ] = "champion",
    preset: Annotated[str, typer.Option(help="The preset whose serving settings are used.")] = "sample",
    override: Overrides = None,
) -> None:
    """Serve a registered version behind the gateway, and make it the champion."""
    preset, _ = load_in_checkout(preset, override)
    from flows import local, report

    with local.platform():
        from flows.deploy import deploy as flow

        report.quiet_failures()
        served = flow(version, preset, overrides=override)
    report.say(f"version {served.version} is served at {served.url}")


@app.command(rich_help_panel="Flows")
def build(
    films: Annotated[
        Path,
        typer.Argument(
            help="A film (a video, or a folder or archive of pictures), a folder of films, a data set like GroundCap (a folder, "
            "or its name on the Hub), or a folder with frames.parquet and detections.parquet."
        ),
    ],
    preset: Annotated[str, typer.Option(help="The preset whose `films` and `authoring` are used.")] = "sample",
    detections: Annotated[
        Path | None,
        typer.Option(
            help="The table of detections, if it is not beside frames.parquet.", exists=True, resolve_path=True
        ),
    ] = None,
    corrections: Annotated[
        Path | None, typer.Option(help="Corrections, as contact sheets save them.", exists=True, resolve_path=True)
    ] = None,
    author: Annotated[str | None, typer.Option(help="The model that writes, by its name at the endpoint.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="What the data set may cost in all.")] = None,
    licence: Annotated[str | None, typer.Option(help="The licence of the data set, such as cc-by-4.0.")] = None,
    target: Annotated[
        str | None, typer.Option(help="The DVC file whose data it replaces, as a new version. Default: none.")
    ] = None,
    until: Annotated[
        Stage, typer.Option(help="sheets: only contact sheets and the cost; stories: all of it.")
    ] = "stories",
    override: Overrides = None,
) -> None:
    """Make a data set of films: see who is in their frames and who is who, have a model write grounded stories, check them, and
    write shards."""
    place = str(films.resolve() if films.exists() else films)
    preset, _ = load_in_checkout(preset, override)
    from flows import local, report

    with local.platform():
        from flows.build import build as flow

        report.quiet_failures()
        given = {
            name: str(path) if path else None
            for name, path in (("detections", detections), ("corrections", corrections))
        }
        built = flow(place, preset, **given, author=author, max_cost=max_cost, licence=licence, target=target,
                     until=until, overrides=override)  # fmt: skip
    report.show_built(built)


@app.command(rich_help_panel="Platform")
def up(
    restart: Annotated[
        bool, typer.Option("--restart", help="Stop everything first, so that changed settings apply. Runs resume.")
    ] = False,
) -> None:
    """Start Prefect, MLflow, the gateway and the Prefect deployments, and print their addresses. Running it twice is fine."""
    from flows import report
    from flows import up as platform

    home.enter()
    platform.up(report.say, restart)


@app.command(rich_help_panel="Platform")
def down() -> None:
    """Stop everything that this checkout runs: all that `up` started, the gateway and its engine."""
    from flows import report
    from flows import up as platform
    from storyreason.serving import client

    if platform.down():
        client.stop()
        report.say("everything that `storyreason up` started is stopped")
    else:
        report.say("the gateway is stopped" if client.stop() else "no gateway of this checkout is running")


Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


@app.command(rich_help_panel="Platform")
def status(json: Json = False) -> None:
    """Show what runs here, what is served and trained, what waits for you, and the disk. Starts nothing."""
    from flows import report
    from flows import status as overview
    from tasks import settings

    home.enter()
    settings.prepare()
    found = overview.look()
    if json:
        report.data(found)
        return
    for line in overview.lines(found):
        report.say(line)


@app.command(rich_help_panel="Platform")
def doctor(preset: Preset = "sample", override: Overrides = None, json: Json = False) -> None:
    """Examine what would stop a retraining here, each with its remedy. Exit code 1 when something would."""
    preset, chosen = load_in_checkout(preset, override)
    from flows import doctor, report
    from tasks import settings

    settings.prepare()
    findings = list(doctor.examine(chosen))
    if json:
        report.data(findings)
    else:
        for line in doctor.lines(findings):
            report.say(line)
    if any(one.state == "fault" for one in findings):
        raise typer.Exit(1)


@app.command(rich_help_panel="Platform")
def clean(
    keep: Annotated[
        int, typer.Option(min=1, help="How many of the newest versions to keep, besides those with an alias.")
    ] = 3,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be removed; also while a job runs.")
    ] = False,
) -> None:
    """Free disk space: remove old versions' weights, old trainings, checkpoints and fetched data. Never what is in use."""
    from flows import local, report

    home.enter()
    local.prepare()
    from tasks import cleaning

    items = cleaning.plan(keep, look=dry_run)
    if not dry_run:
        cleaning.remove(items)
    report.say(cleaning.report(items, removed=not dry_run))


@app.command(rich_help_panel="Platform")
def backup(
    file: Annotated[Path, typer.Argument(help="The tar file to write.", dir_okay=False, resolve_path=True)],
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="The weights of every version, not only of those with an alias.")
    ] = False,
) -> None:
    """Back up what cannot be made again: databases, served versions, scores, settings, and data that was never pushed."""
    from flows import local, report

    home.enter()
    local.prepare()
    from tasks import backup as written

    for line in written.report(written.write(file, all_versions), file):
        report.say(line)


@app.command(rich_help_panel="Platform")
def restore(
    file: Annotated[Path, typer.Argument(help="A backup.", exists=True, dir_okay=False, resolve_path=True)],
) -> None:
    """Restore a backup into a checkout without runs, at any path. Nothing is overwritten."""
    from flows import report
    from flows import up as platform
    from tasks import settings

    home.enter()
    settings.read_dotenv_of(file)
    settings.prepare()
    if platform.running() is not None:
        raise RunError("`storyreason up` is running: stop it with `storyreason down`, then restore.")
    from tasks import backup, cleaning

    cleaning.refuse_while_running()
    for line in backup.restore(file):
        report.say(line)
    report.say("restored; start it with: storyreason up")


@app.command(rich_help_panel="Flows")
def fetch(
    version: Annotated[
        str, typer.Argument(help="A registered version: models:/storyteller@champion, or models:/storyteller/7.")
    ],
) -> None:
    """Print the folder of a registered version, whose files are fetched and verified if they are not on this machine."""
    home.enter()
    typer.echo(registered(version))


def registered(name: str) -> str:
    """The folder of `models:/storyteller@champion` or `models:/storyteller/7`, fetched if need be. Raises RegistryError.

    It stays for as long as this process runs.
    """
    from flows import local
    from tasks import registry

    local.prepare()
    model, _, which = name.removeprefix("models:/").replace("@", "/").partition("/")
    return registry.with_weights(model, which, partial(typer.echo, err=True)).folder


def _enter() -> None:
    """Read the checkout's `.env`, if it has one, and go on with runs that were moved or copied with their checkout."""
    if (home.folder() / ".env").is_file():
        from tasks import settings

        settings.read_dotenv()
    if home.checkout() is not None and runs.moved() is not None:
        from tasks import moving

        moving.settle(lambda said: typer.echo(f"storyreason: {said}", err=True))


def join(main: typer.Typer) -> None:
    """Add these verbs and the model registry to the library's command line, whose every verb now heeds the checkout's `.env`."""
    main.add_typer(app)
    cli.BEFORE.append(_enter)
    RESOLVERS["models:/"] = registered
