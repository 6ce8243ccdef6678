"""The main job: pull data -> train -> register -> evaluate -> gate -> deploy -> move the alias."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from prefect import flow, get_run_logger

from storyreason.config import RunConfig
from storyreason.serving import client as gateway
from storyreason.training import launch
from tasks import cards, data, deployment, evaluation, gate, registry, training
from tasks.faults import plainly, say_how_to_go_on
from tasks.gate import Promotion
from tasks.progress import stopwatch
from tasks.registry import Version
from tasks.results import Evaluated, Until


@dataclass
class Outcome:
    """The outcome of a retraining. Fields of steps that did not run stay empty."""

    version: Version | None = None
    scores: dict[str, Evaluated] = field(default_factory=dict)
    promotion: Promotion | None = None
    url: str = ""
    story: str = ""
    page: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


@flow(name="retrain", flow_run_name="retrain-{config.name}", validate_parameters=True, on_crashed=[say_how_to_go_on])
@plainly()
def retrain(config: RunConfig, until: Until = "deploy") -> Outcome:
    """Fine-tune, register, evaluate and, if the gate allows it, serve a storyteller. Complete steps are not repeated.

    Args:
        config: What the run does, grouped as a preset is.
        until: The last step to run.
    """
    launch.check_machine(config.training)
    if until == "deploy":
        gateway.check(config.serving)
    outcome = Outcome()
    for step in _steps(config, outcome):
        if step == until:
            break
    return outcome


def _steps(config: RunConfig, outcome: Outcome) -> Iterator[Until]:
    """Run the steps in order; yields the name of each when it is complete."""
    clock = outcome.seconds
    with stopwatch(clock, "pull"):
        pulled, base = data.pull_all(config)
    cards.data(pulled)
    yield "pull"

    with stopwatch(clock, "train"):
        trained = training.train(config, pulled, base)
    cards.training(config, trained)
    yield "train"

    with stopwatch(clock, "register"):
        registered = registry.register(config, base, trained)
    version = outcome.version = registry.version(registered.name, registered.number)
    yield "register"

    champion = registry.alias(config.model, "champion")
    subjects = evaluation.subjects(base, version, champion, pulled)
    for subject in subjects:
        with stopwatch(clock, f"evaluate {subject.role}"):
            outcome.scores[subject.role] = evaluation.evaluate(config, subject, pulled)
    with stopwatch(clock, "compare"):
        evaluation.compare(version, outcome.scores)
    cards.scorecard(outcome.scores)
    yield "evaluate"

    with stopwatch(clock, "gate"):
        outcome.promotion = gate.decide(config, version, champion, subjects, outcome.scores)
    yield "gate"

    outcome.promotion, serve = gate.to_serve(config, outcome.promotion, version, champion)
    if serve is None:
        get_run_logger().warning("nothing is served: no version has passed the gate yet")
        return
    unseen = next(data.stories_to_tell(config.data, pulled))
    with stopwatch(clock, "deploy"):
        outcome.url = deployment.deploy(config, serve, unseen).url
    with stopwatch(clock, "tell"):
        told = deployment.tell(config, unseen, serve)
    outcome.story, outcome.page = told.text, told.page
    yield "deploy"
