"""The main job: pull data -> train -> (improve) -> register -> evaluate -> gate -> deploy -> move the alias."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from prefect import flow, get_run_logger

from flows import form
from storyreason.config import RunConfig
from storyreason.generation import command, vllm
from storyreason.serving import client as gateway
from storyreason.training import launch
from tasks import cards, data, deployment, evaluation, gate, judging, registry, training
from tasks.faults import cancel_steps, plainly, say_how_to_go_on
from tasks.gate import Promotion
from tasks.pace import Clock
from tasks.registry import Version
from tasks.results import Evaluated, Until
from tasks.training import say_what_is_kept


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


@flow(
    name="retrain",
    flow_run_name=form.run_name,
    validate_parameters=True,
    on_crashed=[say_how_to_go_on],
    on_cancellation=[say_what_is_kept, cancel_steps],
)
@plainly()
def retrain(
    preset: str = "sample",
    data_rev: str | None = None,
    train_stories: form.Stories = None,
    mode: form.Mode = None,
    learning_rate: form.Rate = None,
    epochs: form.Epochs = None,
    accelerate: str | None = None,
    min_gain: form.Gain = None,
    approval: form.Approval = None,
    until: Until = "deploy",
    overrides: form.Overrides = None,
) -> Outcome:
    """Fine-tune, register, evaluate and, if the gate allows it, serve a storyteller. Complete steps are not repeated.

    Args:
        preset: A preset of deploy/presets, or a YAML file: the values of all fields that are empty.
        data_rev: The Git revision of the data: a tag, branch or commit.
        train_stories: Train on the first N stories only.
        mode: What is trained: adapters (lora), all weights (full), or all but the vision tower (language).
        learning_rate: The highest learning rate. Above 0, at most 1.
        epochs: How many times each story is seen.
        accelerate: The GPUs to train on: a file in deploy/accelerate.
        min_gain: How much better a version must be to be promoted: the gain's interval must lie above this.
        approval: ask: a version that passes the gate waits for approval in Prefect's UI.
        until: The last step to run.
        overrides: Everything else, as `--set` takes it: training.rank=32, one in a line.
    """
    config = form.chosen(
        preset,
        overrides,
        data_rev=data_rev,
        train_stories=train_stories,
        mode=mode,
        learning_rate=learning_rate,
        epochs=epochs,
        accelerate=accelerate,
        min_gain=min_gain,
        approval=approval,
    )
    launch.check_machine(config.training)
    _check_what_comes_after_training(config, until)
    outcome = Outcome()
    for step in _steps(config, outcome, Clock(config.name, until, outcome.seconds)):
        if step == until:
            break
    return outcome


def _check_what_comes_after_training(config: RunConfig, until: Until) -> None:
    """Raise now what the later steps would raise hours later."""
    compares = until in ("evaluate", "gate", "deploy")
    if compares or (config.improve.method == "grpo" and until in ("improve", "register")):
        command.check(config.serving, vllm.gpus, evaluates=until != "deploy")
        vllm.refuse_untold(config.base.name)
    if compares:  # weights that are gone are no fault yet: this training may make them again
        registry.champion(config.model)
    if until in ("gate", "deploy"):
        judging.check(config)
    if until == "deploy":
        gateway.check(config.serving)


def _steps(config: RunConfig, outcome: Outcome, clock: Clock) -> Iterator[Until]:
    """Run the steps in order; yields the name of each when it is complete."""
    with clock.step("pull"):
        pulled, base = data.pull_all(config)
        gate.check_primary(config, pulled)
    cards.data(pulled)
    yield "pull"

    with clock.step("train"):
        trained = training.train(config, pulled, base)
    cards.training(config, trained)
    yield "train"

    made = [trained]
    if config.improve.method != "none":
        with clock.step("improve"):
            made.append(training.improve(config, pulled, base, trained))
        cards.training(config, made[-1])
    yield "improve"

    with clock.step("register"):
        registered = [registry.register(config, base, one) for one in made]
    *before, version = (registry.version(one.name, one.number) for one in registered)
    outcome.version = version
    yield "register"

    champion = registry.champion(config.model)
    subjects = evaluation.subjects(base, version, champion, pulled, *before)
    for subject in subjects:
        with clock.step(f"evaluate {subject.role}"):
            outcome.scores[subject.role] = evaluation.evaluate(config, subject, pulled)
    with clock.step("compare"):
        evaluation.compare(version, outcome.scores)
    gate.say_scores(config, subjects, outcome.scores)
    cards.scorecard(outcome.scores)
    yield "evaluate"

    with clock.step("gate"):
        outcome.promotion = gate.decide(config, version, champion, subjects, outcome.scores, pulled)
    yield "gate"

    unseen = next(data.stories_to_tell(config.data, pulled))
    with deployment.alone(config.model):
        outcome.promotion, serve = gate.to_serve(config, outcome.promotion, version, champion)
        if serve is None:
            get_run_logger().warning("nothing is served: no version has passed the gate yet")
            return
        with clock.step("deploy"):
            promoted = outcome.promotion.granted
            outcome.url = deployment.deploy(config, serve, unseen, moves_champion=promoted).url
    with clock.step("tell"):
        told = deployment.tell(config, unseen, serve)
    outcome.story, outcome.page = told.text, told.page
    yield "deploy"
