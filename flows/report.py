"""What the terminal shows when a flow has ended."""

import logging
from typing import TYPE_CHECKING, Any, get_args

from pydantic_core import to_json
from rich.console import Console
from rich.table import Table

from storyreason.config import RunConfig
from storyreason.generation.config import Decoding
from tasks.settings import PlainFailures

if TYPE_CHECKING:
    from flows.build import Built
    from flows.retrain import Outcome

console = Console(soft_wrap=True, highlight=False)


def quiet_failures() -> None:
    """Have Prefect's loggers show a StoryReasonError as one sentence; any other failure keeps its stack trace."""
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(PlainFailures())


def say(text: str) -> None:
    """Print one line unchanged."""
    console.print(text, markup=False)


def data(found: Any) -> None:
    """Print dataclasses as JSON, on standard output alone."""
    print(to_json(found, indent=2).decode())  # noqa: T201


def show(outcome: "Outcome", config: RunConfig) -> None:
    """Print the story, the scores, the seconds of each step, and, last, where the model is served and how to stop it."""
    if outcome.story:
        console.rule("a story for frames it never saw")
        say(outcome.story)
    if outcome.scores:
        console.rule("scores on the test split")
        show_scores({role: one.metrics for role, one in outcome.scores.items()})
    console.rule("seconds of each step")
    table = Table(box=None, show_header=False)
    for step, seconds in outcome.seconds.items():
        table.add_row(step, f"{seconds:,.1f}")
    console.print(table)
    if outcome.version is not None:
        say(f"version: {outcome.version.name} {outcome.version.number} in MLflow, weights in {outcome.version.folder}")
    if outcome.promotion is not None:
        say(f"gate: {outcome.promotion.reason}")
    if outcome.scores:
        show_pages({role: one.run_id for role, one in outcome.scores.items()})
    if outcome.page:
        say(f"story page: {outcome.page}")
    if outcome.url:
        say(
            f"serving at {outcome.url} (the web page) and {outcome.url}/v1 (OpenAI's API, model storyteller); stop it with: "
            "make down"
        )


def show_built(built: "Built") -> None:
    """Print where a build's contact sheets and data are, and what was left out."""
    for sentence in built.unusable:
        say(sentence)
    for film, page in built.sheets.items():
        say(f"contact sheet of {film}: {page}")
    say(f"expected: {built.expected}")
    if built.folder:
        say(
            f"{built.stories} stories, {built.left_out} windows left out, in {built.folder}; its card is README.md there"
        )
        say(built.version or f"to train on it: storyreason data import {built.folder}")


def show_pages(run_ids: dict[str, str]) -> None:
    """Print where MLflow shows these runs and compares them."""
    from flows import up
    from tasks import settings, tracking, views

    experiment = tracking.experiment()
    if not up.is_used("mlflow", settings.read()) or not settings.answers(f"{views.server()}/health"):
        say("MLflow's server is not running: start it with `storyreason up` before you open these addresses.")
    say(f"runs, the best first: {views.runs(experiment)}")
    if len(set(run_ids.values())) > 1:
        say(f"{' against '.join(run_ids)}: {views.comparison(experiment, run_ids.values())}")


def show_scores(scores: dict[str, dict[str, float]]) -> None:
    """Print the headline scores, with a column for each model."""
    from storyreason.scoring.catalogue import HEADLINES

    table = Table(box=None)
    table.add_column("")
    for role in scores:
        table.add_column(role, justify="right")
    for score in HEADLINES:
        for decoding in get_args(Decoding):
            name = f"{decoding}/{score.name}"
            if any(name in metrics for metrics in scores.values()):
                values = (score.text(metrics[name]) if name in metrics else "-" for metrics in scores.values())
                table.add_row(f"{score.title}, {decoding}", *values)
    console.print(table)
