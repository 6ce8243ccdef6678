"""Serve a registered version, by its number or an alias (`previous` rolls back)."""

from contextlib import suppress

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from flows import form
from storyreason import dataset
from storyreason.config import RunConfig
from storyreason.errors import GatewayError, StoryReasonError
from storyreason.generation import command, vllm
from storyreason.serving import client as gateway
from tasks import data, deployment, registry
from tasks.deployment import Served
from tasks.faults import cancel_steps, plainly, say_how_to_go_on


@flow(name="deploy", flow_run_name=form.run_name, on_crashed=[say_how_to_go_on], on_cancellation=[cancel_steps])
@plainly()
def deploy(which: str = "champion", preset: str = "sample", overrides: form.Overrides = None) -> Served:
    """Swap the served model and move the aliases; a version that is served already is left as it is.

    Args:
        which: A version's number or alias in MLflow; `previous` rolls back.
        preset: A preset of deploy/presets, or a YAML file: whose serving settings are used.
        overrides: Everything else, as `--set` takes it: serving.max_num_seqs=4, one in a line.
    """
    config = form.chosen(preset, overrides)
    version = registry.with_weights(config.model, _deployed(config) or which)
    command.check(config.serving, vllm.gpus, version.folder)
    gateway.check(config.serving)
    first = probe(config)
    with deployment.alone(config.model):
        return deployment.deploy(config, version, first, by_hand=True)


def _deployed(config: RunConfig) -> str | None:
    """The number of the version that this flow run has deployed before it was killed and restarted, if it has.

    By then `previous` is the version that it replaced: it would go back again.
    """
    with suppress(GatewayError):
        served = gateway.status(config.serving)
        model, _, number = (served.registered or "").removeprefix("models:/").rpartition("/")
        if model == config.model and served.run_id == flow_run.get_id() is not None:
            return number
    return None


def probe(config: RunConfig) -> dataset.Example:
    """A test story that the version tells first; one without pictures if there is none, so that a rollback needs no data."""
    try:
        return next(data.stories_to_tell(config.data, data.pull(data.identify(config.data))))
    except StoryReasonError as error:
        get_run_logger().warning("deploying without telling a test story first, because there are no data: %s", error)
        return dataset.Example("none", images=(), chain_of_thought="", story="")
