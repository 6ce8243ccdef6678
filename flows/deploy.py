"""Serve a registered version: by number, or an alias (`previous` rolls back)."""

from typing import Any

from prefect import flow

from flows.retrain import pull
from storyreason.config import RunConfig
from tasks import deployment, registry
from tasks.data import stories_to_tell
from tasks.steps import plainly, say_how_to_go_on


@flow(name="deploy", flow_run_name="deploy-{which}", on_crashed=[say_how_to_go_on])
@plainly()
def deploy(config: RunConfig, which: str = "champion") -> dict[str, Any]:
    """Swap the served model and move the aliases; a version that is served already is left alone.

    Args:
        config: What the run does, grouped as a preset is.
        which: A version's number or alias in MLflow; `previous` rolls back.
    """
    version = registry.version(config.model, which)
    data, _, _ = pull(config)
    return deployment.deploy(config, version, next(stories_to_tell(config.data, data)), by_hand=True)
