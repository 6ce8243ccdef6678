"""Deployment as a step: a request to the gateway, then the aliases, then one story told by the served version."""

import math
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prefect import get_run_logger, task
from prefect.runtime import flow_run

from storyreason import dataset, generation, home, page, runs
from storyreason.config import RunConfig
from storyreason.errors import GatewayError
from storyreason.format import answer
from storyreason.generation.vllm import NAME
from storyreason.serving import client as gateway
from tasks import accelerator, cards, registry, tracking, waiting
from tasks.faults import from_outside, plainly
from tasks.registry import Version

PAGE = "served/story.html"
"""The artifact on a version's run with the story that it told when it was deployed."""


@dataclass(frozen=True)
class Served:
    """The served version, and the address of the gateway."""

    version: str
    folder: str
    url: str


@dataclass(frozen=True)
class Told:
    """An answer, and the page that shows it."""

    text: str
    page: str


@contextmanager
def alone(model: str) -> Iterator[None]:
    """The exclusive right to deploy a version of a model. Who finds another deployment at work says so, and waits.

    Whoever deploys holds it from before it looks at the champion until the alias is moved.
    """

    def held() -> None:
        get_run_logger().info("waiting for another deployment of %s", model)

    with runs.lock(runs.root() / "deploying" / model, math.inf, held):
        yield


@task(name="deploy", retries=2, retry_delay_seconds=5, retry_jitter_factor=0.5, retry_condition_fn=from_outside)
@plainly()
def deploy(
    config: RunConfig,
    version: Version,
    probe: dataset.Example,
    by_hand: bool = False,
    moves_champion: bool = True,
) -> Served:
    """Swap the served model without interruption, then move `champion` and `previous`. Never cached.

    The caller holds `alone`. Without `moves_champion` the version is what was served before, and the aliases stay.
    """
    logger = get_run_logger()
    gateway.ensure_running(config.serving)
    if gateway.serves(config.serving, version.folder, config.generation):
        logger.info("%s version %s is served already and healthy: nothing to deploy", version.name, version.number)
    else:
        if config.serving.external:
            _roll(config, version)
        else:
            logger.info("starting %s version %s beside what is served ...", version.name, version.number)
        with accelerator.taken(config.serving.devices):
            gateway.deploy(
                config.serving,
                folder=version.folder,
                version=version.number,
                images=probe.images,
                generation=config.generation,
                run_id=flow_run.get_id(),
                registered=f"models:/{version.name}/{version.number}",
            )
        registry.tag_version(version, deployed=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    if moves_champion:
        registry.move_champion(version, by_hand)
        waiting.over(version.name)
    return Served(version.number, version.folder, gateway.url(config.serving))


def _roll(config: RunConfig, version: Version) -> None:
    """Have the engine that somebody else runs serve a version, by the preset's command. Raises GatewayError if it fails."""
    logger, engine, command = get_run_logger(), config.serving.external, config.serving.roll
    names = f"{NAME} {version.name}-{version.number}"
    logger.info("waiting for %s to serve %s%s", engine, names, f", by: {command}" if command else "")
    if not command:
        return
    environment = {
        **os.environ,
        "STORYREASON_MODEL": version.folder,
        "STORYREASON_VERSION": f"models:/{version.name}/{version.number}",
        "STORYREASON_NAMES": names,
    }
    done = subprocess.run(command, shell=True, cwd=home.folder(), env=environment, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["it printed nothing"]
        raise GatewayError(f"The command in serving.roll ended with {done.returncode}: {said[-1].strip()}")


@task(name="tell")
@plainly()
def tell(config: RunConfig, example: dataset.Example, served: Version) -> Told:
    """One story for frames the model has never seen, told through the gateway, as text and as a page.

    The decoding is that of the gate's primary score: grounded, unless the preset says otherwise.
    """
    decoding = config.gate.primary.partition("/")[0]
    asked = config.generation.as_trained(served.folder).model_copy(update={"decoding": decoding})
    name = gateway.status(config.serving).model
    told = generation.answering.answer_to(
        gateway.url(config.serving),
        name,
        example.story_id,
        example.images,
        asked,
        api_key=gateway.token(config.serving),
    )
    path = runs.root() / "stories" / served.name / f"version-{served.number}.html"
    view = page.view(
        example.story_id, example.images, told.answer, answer.join(example.chain_of_thought, example.story)
    )
    rendered = page.render([view], f"A story told by version {served.number}")
    runs.write_text(path, rendered)
    tracking.client().log_text(served.run_id, rendered, PAGE)
    cards.story(told.answer, served, path, PAGE)
    return Told(told.answer, str(path))
