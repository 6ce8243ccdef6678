"""Deployment as a step: a request to the gateway, then the aliases, then one story told by what is served."""

import time
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact
from prefect.runtime import flow_run

from storyreason import answer, dataset, generation, page, runs
from storyreason.config import RunConfig
from storyreason.serving import client as gateway
from tasks import accelerator, registry
from tasks.steps import from_outside, plainly


@task(name="deploy", retries=2, retry_delay_seconds=5, retry_jitter_factor=0.5, retry_condition_fn=from_outside)
@plainly()
def deploy(config: RunConfig, version: registry.Version, probe: dataset.Example) -> dict[str, Any]:
    """Swap the served model without an interruption, then move `champion` and `previous`. Never cached."""
    logger = get_run_logger()
    gateway.ensure_running(config.serving)
    served = gateway.status(config.serving)
    if served.healthy and served.folder == version.folder:
        logger.info("%s version %s is served already and healthy: nothing to deploy", version.name, version.number)
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
            )
        registry.tag_version(version, deployed=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    registry.move_champion(version)
    return {"version": version.number, "folder": version.folder, "url": gateway.url(config.serving)}


@task(name="tell")
@plainly()
def tell(config: RunConfig, example: dataset.Example, served: str) -> dict[str, str]:
    """One story for frames the model never saw, told through the gateway, as text and as a page.

    Decoded as what the gate decides by: under grammars, unless the preset says otherwise.
    """
    asked = config.generation.model_copy(update={"decoding": config.gate.primary.partition("/")[0]})
    name = gateway.status(config.serving).model
    told = generation.predictions.answer_to(
        gateway.url(config.serving), name, example.story_id, example.images, asked, api_key=gateway.token()
    )
    path = runs.root() / "stories" / f"version-{served}.html"
    view = page.view(
        example.story_id, example.images, told.answer, answer.join(example.chain_of_thought, example.story)
    )
    runs.write_text(path, page.render([view], f"A story told by version {served}"))
    create_link_artifact(path.as_uri(), link_text="story page", key="story-page")
    return {"text": told.answer, "page": str(Path(path))}
