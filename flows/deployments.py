"""The Prefect deployments: retrain (weekly, and when the data changes), evaluate, deploy.

`python -m flows.deployments` serves them on this machine; deploy/prefect.yaml has the same set for work pools.
"""

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING, Any, cast

from storyreason import config, home, runs
from storyreason.errors import RunError, StoryReasonError
from tasks import compat, settings, tracking
from tasks.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.deployments.runner import RunnerDeployment

NAME = "storyteller"
"""The name of every deployment. Prefect shows it after the flow's name: `retrain/storyteller`."""
FLOWS = ("retrain", "evaluate", "deploy", "clean")
CLEAN = "0 6 * * 0"
"""The schedule of `clean` in Prefect while STORYREASON_CLEAN is empty: it is switched off."""
PATIENCE = 900.0
"""Seconds to wait for Prefect's server."""


def everything(chosen: Settings) -> "list[RunnerDeployment]":
    """The deployments of this checkout, with its preset in their forms. A paused schedule stays paused."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.events import DeploymentEventTrigger
    from prefect.flows import EntrypointType
    from prefect.schedules import Cron

    from flows.clean import clean
    from flows.deploy import deploy
    from flows.evaluate import evaluate
    from flows.retrain import retrain
    from tasks.data import NEW_VERSION, RESOURCE

    override = [f"serving.port={chosen.gateway_port}"]
    parameters = {"config": config.load(chosen.preset, override).model_dump(mode="json")}
    with get_client(sync_client=True) as client:
        active = _schedule_is_active(client)
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    module = EntrypointType.MODULE_PATH
    made = [
        retrain.to_deployment(
            NAME,
            description="Pull data, fine-tune, register, evaluate, decide, and serve the new storyteller if it is better. "
            "Complete steps are not repeated. One at a time: the next waits.",
            parameters=parameters,
            schedule=Cron(chosen.cron, timezone=chosen.timezone, active=active),
            triggers=[
                DeploymentEventTrigger(
                    name="retrain when the data changes",
                    expect={NEW_VERSION},
                    match={"prefect.resource.id": f"{RESOURCE}.*"},
                )
            ],
            concurrency_limit=one_at_a_time,
            entrypoint_type=module,
        ),
        evaluate.to_deployment(
            NAME,
            description="Score a registered version, or the base model, on the test split.",
            parameters=parameters,
            entrypoint_type=module,
        ),
        deploy.to_deployment(
            NAME,
            description="Serve a registered version behind the gateway, and make it the champion; `previous` rolls back.",
            parameters=parameters,
            concurrency_limit=one_at_a_time,
            entrypoint_type=module,
        ),
        clean.to_deployment(
            NAME,
            description="Free disk space: remove old versions' weights, old trainings and fetched data. Never what is in use.",
            parameters={"keep": 3},
            schedule=Cron(chosen.clean or CLEAN, timezone=chosen.timezone, active=bool(chosen.clean)),
            entrypoint_type=module,
        ),
    ]
    return cast("list[RunnerDeployment]", made)  # outside of an event loop, no coroutines


def _schedule_is_active(client: "SyncPrefectClient") -> bool:
    from prefect.exceptions import ObjectNotFound

    try:
        known = client.read_deployment_by_name(f"retrain/{NAME}")
    except ObjectNotFound:
        return True
    return all(schedule.active for schedule in known.schedules)


def resume_interrupted() -> list[str]:
    """Schedule the runs again that the previous process left unfinished, and give their names.

    None of them is still running: the process of a flow run ends with the process that serves the deployments.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Cancelled, Scheduled, State

    begun = [StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]
    resumed = []
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": begun}}}),
            deployment_filter=DeploymentFilter.model_validate({"name": {"any_": [NAME]}}),
        )
        for one in found:
            if one.work_pool_name is not None:  # a worker's, on whatever machine
                continue
            if one.state_type == StateType.CANCELLING:
                client.set_flow_run_state(one.id, Cancelled(message="Its process has ended."))
                continue
            again: State[Any] = Scheduled(message="Its process had ended; complete steps are not repeated.")
            client.set_flow_run_state(one.id, again)
            resumed.append(one.name)
    return resumed


def main() -> None:
    """Serve the deployments until the process ends."""
    home.enter()
    settings.prepare()
    chosen = settings.read()
    os.environ.setdefault("PREFECT_API_URL", f"{chosen.prefect_url}/api")
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(chosen.heartbeat))
    from flows import schedules, up

    schedules.check(chosen)
    deadline = time.monotonic() + PATIENCE
    while not up.answers(f"{os.environ['PREFECT_API_URL']}/health"):
        if time.monotonic() > deadline:
            raise RunError(f"No Prefect server answers at {os.environ['PREFECT_API_URL']}: run `storyreason up`.")
        time.sleep(0.2)
    from prefect.runner import Runner

    from flows import automations

    compat.let_cancel_after_an_outage()

    class AtOnce(Runner):
        """Exits at once on SIGTERM. Its runs are then interrupted as by a crash, and the next process resumes them."""

        def handle_sigterm(self, *_: object, **__: object) -> None:
            os._exit(0)

    runner = AtOnce(pause_on_shutdown=False)
    for one in everything(chosen):
        runner.add_deployment(one)
    automations.apply(chosen)
    tracking.experiment()  # so that MLflow's page of runs exists before the first one
    for name in resume_interrupted():
        print(f"{name} resumes", flush=True)  # noqa: T201 - the log of this process
    runs.write_text(up.ready_file(), "")
    asyncio.run(runner.start())


if __name__ == "__main__":
    try:
        main()
    except StoryReasonError as error:
        sys.exit(str(error))
