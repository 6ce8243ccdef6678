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
from tasks.pace import Clock
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
    for step in _steps(config, outcome, Clock(config.name, until, outcome.seconds)):
        if step == until:
            break
    return outcome


def _steps(config: RunConfig, outcome: Outcome, clock: Clock) -> Iterator[Until]:
    """Run the steps in order; yields the name of each when it is complete."""
    with clock.step("pull"):
        pulled, base = data.pull_all(config)
        gate.warn_of_few(config, pulled)
    cards.data(pulled)
    yield "pull"

    with clock.step("train"):
        trained = training.train(config, pulled, base)
    cards.training(config, trained)
    yield "train"

    with clock.step("register"):
        registered = registry.register(config, base, trained)
    version = outcome.version = registry.version(registered.name, registered.number)
    yield "register"

    champion = registry.alias(config.model, "champion")
    subjects = evaluation.subjects(base, version, champion, pulled)
    for subject in subjects:
        with clock.step(f"evaluate {subject.role}"):
            outcome.scores[subject.role] = evaluation.evaluate(config, subject, pulled)
    with clock.step("compare"):
        evaluation.compare(version, outcome.scores)
    cards.scorecard(outcome.scores)
    yield "evaluate"

    with clock.step("gate"):
        outcome.promotion = gate.decide(config, version, champion, subjects, outcome.scores)
    yield "gate"

    outcome.promotion, serve = gate.to_serve(config, outcome.promotion, version, champion)
    if serve is None:
        get_run_logger().warning("nothing is served: no version has passed the gate yet")
        return
    unseen = next(data.stories_to_tell(config.data, pulled))
    with clock.step("deploy"):
        outcome.url = deployment.deploy(config, serve, unseen).url
    with clock.step("tell"):
        told = deployment.tell(config, unseen, serve)
    outcome.story, outcome.page = told.text, told.page
    yield "deploy"
