"""The command line: the library's verbs, and those that start flows."""

from enum import StrEnum
from typing import Annotated

import typer

from storyreason import cli
from storyreason.generation.cli import RESOLVERS

app = cli.app

Preset = Annotated[str, typer.Argument(help="A preset of deploy/presets, or a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Lay a value over the preset: --set training.learning_rate=1e-4."),
]


class Step(StrEnum):
    """The steps of a retraining, in order."""

    pull = "pull"
    train = "train"
    register = "register"
    evaluate = "evaluate"
    gate = "gate"
    deploy = "deploy"


@app.command(rich_help_panel="Flows")
def retrain(
    preset: Preset = "sample",
    override: Overrides = None,
    until: Annotated[Step, typer.Option(help="The last step to run.")] = Step.deploy,
) -> None:
    """Pull data, fine-tune, register, evaluate, decide, and serve the new storyteller if it is better."""
    from storyreason import config

    chosen = config.load(preset, override or [])
    from flows import local, report

    with local.platform():
        from flows.retrain import retrain as flow

        report.quiet_failures()
        outcome = flow(chosen, until=until.value)
    report.show(outcome, chosen)


@app.command(rich_help_panel="Flows")
def evaluate(
    version: Annotated[str, typer.Argument(help="A version's number or alias in MLflow, or `base`.")] = "champion",
    preset: Annotated[str, typer.Option(help="The preset whose data and decoding are used.")] = "sample",
    override: Overrides = None,
) -> None:
    """Score a registered version, or the base model, on the test split."""
    from storyreason import config

    chosen = config.load(preset, override or [])
    from flows import local, report

    with local.platform():
        from flows.evaluate import evaluate as flow

        report.quiet_failures()
        result = flow(chosen, version)
    report.show_scores({version: result["metrics"]})
    for decoding, page in result["pages"].items():
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
    from storyreason import config

    chosen = config.load(preset, override or [])
    from flows import local, report

    with local.platform():
        from flows.deploy import deploy as flow

        report.quiet_failures()
        served = flow(chosen, version)
    report.say(f"version {served['version']} is served at {served['url']}")


@app.command(rich_help_panel="Flows")
def down() -> None:
    """Stop what this checkout left running: the gateway and its engine."""
    from flows import report
    from storyreason.serving import client

    report.say("the gateway is stopped" if client.stop() else "no gateway of this checkout is running")


def _registered(name: str) -> str:
    """The folder of `models:/storyteller@champion` or `models:/storyteller/7`. Raises RegistryError."""
    from tasks import registry, settings

    settings.prepare()
    model, _, which = name.removeprefix("models:/").replace("@", "/").partition("/")
    return registry.version(model, which).folder


RESOLVERS["models:/"] = _registered


def main() -> None:
    """The entry point: a fault that a person can mend is one sentence and exit code 2."""
    cli.run(app)
