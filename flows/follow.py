"""Deploy the version that somebody made the champion in MLflow; if that fails, the champion is the one before again."""

import logging
import threading
from collections.abc import Callable

from prefect import flow, get_run_logger

from flows import deploy, form
from storyreason.config import RunConfig
from storyreason.errors import RegistryError, StoryReasonError
from storyreason.generation import command, vllm
from storyreason.serving import client as gateway
from storyreason.serving import state
from tasks import approval, deployment, following, registry
from tasks.deployment import Served
from tasks.faults import cancel_steps, plainly, say_how_to_go_on
from tasks.following import Move
from tasks.settings import Settings

log = logging.getLogger("storyreason.follow")
PAUSE = 60.0
"""Most seconds between two questions while MLflow or Prefect cannot be asked."""


@flow(
    name="follow",
    flow_run_name="champion-{model}-{number}",
    on_crashed=[say_how_to_go_on],
    on_cancellation=[cancel_steps],
)
@plainly()
def follow(model: str, number: str, before: str, preset: str = "sample") -> Served:
    """Serve a version whose alias was moved, as `storyreason deploy` does; on any failure move the alias back and say why.

    Args:
        model: The registered model.
        number: The version that is the champion now.
        before: The version that was the champion before, and which is served.
        preset: A preset of deploy/presets, or a YAML file: whose serving settings and gate.approval are used.
    """
    config, move = form.chosen(preset, [f"model={model}"]), Move(model, number, before)
    try:
        following.note(move)
        version = registry.with_weights(model, number)
        if config.gate.approval == "ask":
            report = f"Somebody made version {number} of {model} the champion in MLflow, in place of version {before}. Serve it?"
            promoted, said = approval.ask(config, version, report)
            if not promoted:
                raise RegistryError(f"Version {number} was not approved: {said}.")
        command.check(config.serving, vllm.gpus, version.folder)
        gateway.check(config.serving)
        probe = deploy.probe(config)
        with deployment.alone(model):
            served = deployment.deploy(config, version, probe, by_hand=True)
    except StoryReasonError as error:
        with deployment.alone(model):
            following.undo(move, str(error))
            _serve_again(config, move)
        get_run_logger().error("version %s is the champion of %s again: %s", before, model, error)
        raise
    registry.replaced(model, number, before, by_hand=True)
    return served


def _serve_again(config: RunConfig, move: Move) -> None:
    """Serve the version before, if the gateway took the other one meanwhile: `storyreason deploy champion` names it, too."""
    served = state.served(config.serving.gateway)
    taken = served is not None and served.registered == f"models:/{move.model}/{move.number}"
    if taken and registry.number_of(move.model, "champion") == move.before:
        before = registry.with_weights(move.model, move.before)
        deployment.deploy(config, before, deploy.probe(config), moves_champion=False)


def watch(chosen: Settings, start: Callable[[Move], object], ending: threading.Event) -> None:
    """Call `start` for each move of the champion of the checkout's preset, within seconds, until `ending` is set."""
    config = form.chosen(chosen.preset, None)
    pause, said = following.EVERY, ""
    while not ending.wait(pause):
        try:
            if (move := following.look(config)) is not None:
                start(move)
                following.seen(move.model, move.number)
            pause, said = following.EVERY, ""
        except Exception as error:  # MLflow's server or Prefect's may be restarting, and nobody would start this again
            if str(error) != said:
                log.warning("the champion in MLflow cannot be followed now: %s", error)
            pause, said = min(2 * pause, PAUSE), str(error)


def start(move: Move, preset: str) -> None:
    """Schedule the deployment of a version that was made the champion."""
    from prefect.deployments import run_deployment

    asked = {"model": move.model, "number": move.number, "before": move.before, "preset": preset}
    run_deployment("follow/follow-champion", parameters=asked, timeout=0, as_subflow=False)
