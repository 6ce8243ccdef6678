"""The main job: pull data -> train -> register -> evaluate -> gate -> deploy -> move the alias."""

from dataclasses import dataclass, field
from typing import Any, Literal

from prefect import flow, get_run_logger

from storyreason import model, runs
from storyreason.config import RunConfig
from storyreason.serving import client as gateway
from storyreason.training import launch
from tasks import approval, cards, deployment, evaluation, registry
from tasks import data as data_steps
from tasks import training as training_steps
from tasks.evaluation import Subject
from tasks.progress import stopwatch
from tasks.steps import cached, plainly, say_how_to_go_on

Step = Literal["pull", "train", "register", "evaluate", "gate", "deploy"]


@dataclass
class Outcome:
    """What a retraining came to. Fields of steps that were not asked for stay empty."""

    version: registry.Version | None = None
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    promoted: bool = False
    reason: str = ""
    url: str = ""
    story: str = ""
    page: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


@flow(name="retrain", flow_run_name="retrain-{config.name}", validate_parameters=True, on_crashed=[say_how_to_go_on])
@plainly()
def retrain(config: RunConfig, until: Step = "deploy") -> Outcome:
    """Fine-tune, evaluate, register and, when the gate allows it, serve a storyteller. Complete steps are not repeated.

    Args:
        config: What the run does, grouped as a preset is.
        until: The last step to run.
    """
    launch.check_machine(config.training)
    if until == "deploy":
        gateway.check(config.serving)
    outcome = Outcome()
    clock = outcome.seconds

    with stopwatch(clock, "pull"):
        data, base, base_identity = pull(config)
    cards.data(data)
    if until == "pull":
        return outcome

    print_ = training_steps.fingerprint(config, data["md5"], base_identity)
    with stopwatch(clock, "train"):
        trained = _run(training_steps.train, "train", print_)(config, data, base, print_)
    cards.training(config, trained)
    if until == "train":
        return outcome

    with stopwatch(clock, "register"):
        registered = _run(registry.register, "register", registry.fingerprint(print_, config.model))(
            config, base, trained, print_
        )
    version = outcome.version = registry.version(registered["name"], registered["number"])
    if until == "register":
        return outcome

    champion = registry.alias(config.model, "champion")
    subjects = [Subject("base", base, base_identity), subject("challenger", version, data)]
    if champion is not None and champion.number != version.number:
        subjects.append(subject("champion", champion, data))
    scores: dict[str, dict[str, Any]] = {}
    for one in subjects:
        with stopwatch(clock, f"evaluate {one.role}"):
            scores[one.role] = scored(config, one, data)
    outcome.scores = {role: scored["metrics"] for role, scored in scores.items()}
    compared = evaluation.comparison_fingerprint(version, scores)
    with stopwatch(clock, "compare"):
        _run(evaluation.compare, "compare", compared)(version, scores, compared)
    cards.scorecard(scores)
    if until == "evaluate":
        return outcome

    with stopwatch(clock, "gate"):
        _gate(config, outcome, version, champion, subjects, scores, data)
    if until == "gate":
        return outcome

    serve = _to_serve(config, outcome, version, champion)
    if serve is None:
        get_run_logger().warning("nothing is served: no version has passed the gate yet")
        return outcome
    unseen = next(data_steps.stories_to_tell(config.data, data))
    with stopwatch(clock, "deploy"):
        outcome.url = deployment.deploy(config, serve, unseen)["url"]
    with stopwatch(clock, "tell"):
        told = deployment.tell(config, unseen, serve)
    outcome.story, outcome.page = told["text"], told["page"]
    return outcome


def _to_serve(
    config: RunConfig, outcome: Outcome, version: registry.Version, champion: registry.Version | None
) -> registry.Version | None:
    """The challenger where it is promoted, else what is the champion now. One that changed meanwhile stays."""
    now = registry.alias(config.model, "champion")
    if outcome.promoted and now != champion:
        outcome.promoted = False
        outcome.reason = f"the champion changed during this run, from {_name(champion)} to {_name(now)}: run it again"
        evaluation.announce_held(version, outcome.reason)
    return version if outcome.promoted else now


def _name(champion: registry.Version | None) -> str:
    return f"version {champion.number}" if champion else "none"


def _run(task: Any, step: str, print_: str) -> Any:
    return cached(task, print_, registry.recall(runs.work_folder(step, print_)))


def pull_data(config: RunConfig) -> dict[str, Any]:
    """The data's manifest."""
    version = data_steps.identify(config.data)
    data: dict[str, Any] = _run(data_steps.pull, "pull", version.fingerprint)(version)
    return data


def pull(config: RunConfig) -> tuple[dict[str, Any], str, str]:
    """The data's manifest, where the base model is, and what identifies its content."""
    base = data_steps.identify_base(config.base.name)
    data = pull_data(config)
    if base is not None:
        _run(data_steps.pull, "pull", base.fingerprint)(base, check=False)
    folder = data_steps.base_folder(base, config.base.name)
    return data, folder, model.load_identity(folder, config.base.revision)


def subject(role: str, version: registry.Version, data: dict[str, Any]) -> Subject:
    """A registered version to be scored: its scores belong to its training run only on the data that it was trained on."""
    run_id = version.run_id if version.data_md5 == data["md5"] else None
    return Subject(role, version.folder, version.identity, run_id=run_id, version=version.number)


def scored(config: RunConfig, one: Subject, data: dict[str, Any]) -> dict[str, Any]:
    """The evaluation's manifest, from the cache when this model was told and scored on this data before."""
    print_ = evaluation.fingerprint(config, one, data)
    return _run(evaluation.evaluate, "evaluate", print_)(config, one, data, print_)


def _gate(
    config: RunConfig,
    outcome: Outcome,
    version: registry.Version,
    champion: registry.Version | None,
    subjects: list[Subject],
    scores: dict[str, dict[str, Any]],
    data: dict[str, Any],
) -> None:
    if champion is not None and champion.number == version.number:
        outcome.promoted, outcome.reason = True, f"version {version.number} is the champion already: nothing to decide"
        get_run_logger().info("gate: %s", outcome.reason)
        return
    if taken_down := registry.tags_of(version).get(registry.TAKEN_DOWN):
        outcome.reason = (
            f"version {version.number} was taken down by hand {taken_down}: serve it again with "
            f"`storyreason deploy {version.number}`"
        )
        get_run_logger().warning("gate: hold. %s", outcome.reason)
        return
    incumbent = subjects[-1] if champion is not None else subjects[0]
    compared = {"challenger": scores["challenger"], "incumbent": scores[incumbent.role]}
    decision = evaluation.gate(config, version, incumbent, compared, data["md5"])
    outcome.promoted, outcome.reason = decision["promote"], decision["reason"]
    if outcome.promoted and config.gate.approval == "ask":
        outcome.promoted, said = approval.ask(config, version, decision["report"])
        outcome.reason = f"{outcome.reason}; {said}"
        get_run_logger().info("%s", said)
    if not outcome.promoted:
        evaluation.announce_held(version, outcome.reason)
