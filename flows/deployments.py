"""The Prefect deployments: retrain with each preset (with one of them weekly, and when the data changes), and the other flows.

`python -m flows.deployments` serves them on this machine; `python -m flows.deployments --pool NAME` registers the same set
with a work pool, for workers on other machines, and ends.
"""

import argparse
import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from flows import form
from storyreason import config, home, runs
from storyreason.errors import RunError, StoryReasonError
from tasks import cards, compat, settings, tracking
from tasks.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

FLOWS = ("retrain", "evaluate", "deploy", "build", "clean", "follow")
EVALUATE, DEPLOY, BUILD, CLEANING = "evaluate-version", "deploy-version", "build-data", "clean-disk"
"""The names of these four Prefect deployments; those of retrainings name their preset: `retrain-sample`."""
FOLLOW = "follow-champion"
"""The name of the one that exists with STORYREASON_FOLLOW."""
ONE_RETRAINING, ONE_DEPLOYMENT = "one retraining at a time", "one deployment at a time"
"""The names of the limits that let one run wait for another."""
CLEAN = "0 6 * * 0"
"""The schedule of `clean` in Prefect while STORYREASON_CLEAN is empty: it is switched off."""
PATIENCE = 900.0
"""Seconds to wait for Prefect's server."""


def retraining(preset: str) -> str:
    """The name of the Prefect deployment that trains with a preset, also of one that is a file."""
    return f"retrain-{Path(preset).stem}" if preset.endswith((".yaml", ".yml")) else f"retrain-{preset}"


def everything(chosen: Settings, pool: str | None = None) -> "list[RunnerDeployment]":
    """The Prefect deployments of this checkout or a work pool, one retraining for each preset. A paused schedule stays paused."""
    from prefect.flows import EntrypointType
    from prefect.schedules import Cron

    from flows.build import build
    from flows.clean import clean
    from flows.deploy import deploy
    from flows.evaluate import evaluate
    from flows.retrain import retrain

    config.load(chosen.preset)  # raises ConfigError
    # A file of one's own takes the place of the built-in preset of that name: Prefect knows a deployment by its name alone.
    presets = {retraining(one): one for one in (chosen.preset, *config.presets(), chosen.preset)}
    module = EntrypointType.MODULE_PATH
    made = []
    for name, preset in presets.items():
        one: Any = retrain.to_deployment(
            name,
            description=f"{config.about(preset)}\n\nPulls data, fine-tunes, registers, evaluates, decides, and serves the new "
            "version if it is better. Complete steps are not repeated. One retraining at a time: the next waits.",
            tags=_tags(preset),
            entrypoint_type=module,
            concurrency_limit=1,
            **(_automatic(chosen, pool) if preset == chosen.preset else {}),
        )
        form.fill(one, preset, [preset])
        made.append(one)
    for flow, name, description in (
        (evaluate, EVALUATE, "Scores a registered version, or the base model, on the test split."),
        (
            deploy,
            DEPLOY,
            "Serves a registered version behind the gateway, and makes it the champion; `previous` rolls back.",
        ),
        (
            build,
            BUILD,
            "Makes a data set of films: sees who is in their frames and who is who, has a model write grounded stories, checks "
            "them, and writes shards.",
        ),
    ):
        alone = 1 if name == DEPLOY else None
        one = flow.to_deployment(name, description=description, entrypoint_type=module, concurrency_limit=alone)
        form.fill(one, chosen.preset, list(presets.values()))
        made.append(one)
    made.append(
        clean.to_deployment(
            CLEANING,
            description="Frees disk space: removes old versions' weights, old trainings and fetched data. Never what is in use.",
            parameters={"keep": 3},
            schedule=Cron(chosen.clean or CLEAN, timezone=chosen.timezone, active=bool(chosen.clean)),
            entrypoint_type=module,
        )
    )
    if chosen.follow:
        made.append(_following(module))
    return cast("list[RunnerDeployment]", made)  # outside of an event loop, no coroutines


def _tags(preset: str) -> list[str]:
    """What tells the presets of one base apart in Prefect's list, which cuts long names off: `lora`, `nf4`."""
    training = config.load(preset).training
    return [training.mode, *([training.quantize] if training.quantize else [])]


def _following(module: Any) -> Any:
    """The one that a move of the champion in MLflow starts."""
    from flows.follow import follow

    return follow.to_deployment(
        FOLLOW,
        description="Serves the version that somebody made the champion in MLflow. Started by that; not for people.",
        entrypoint_type=module,
        concurrency_limit=1,
    )


def _automatic(chosen: Settings, pool: str | None) -> dict[str, Any]:
    """What starts runs of the checkout's preset by itself: the schedule, and a new data version."""
    from prefect.client.orchestration import get_client
    from prefect.events import DeploymentEventTrigger
    from prefect.schedules import Cron

    from tasks.data import NEW_VERSION, RESOURCE

    with get_client(sync_client=True) as client:
        active = _schedule_is_active(client, pool)
    trigger = DeploymentEventTrigger(
        name="retrain when the data changes",
        expect={NEW_VERSION},
        match={"prefect.resource.id": f"{RESOURCE}.*"},
    )
    return {"schedule": Cron(chosen.cron, timezone=chosen.timezone, active=active), "triggers": [trigger]}


def register(runner: "Runner", chosen: Settings) -> None:
    """Register the Prefect deployments with a runner that serves them, with named limits; remove obsolete ones."""
    _register(everything(chosen), lambda one: cast(UUID, runner.add_deployment(one)), None)


def offer(pool: str, chosen: Settings) -> list[str]:
    """Register the same with a work pool, whose workers run them in the checkout at `STORYREASON_HOME` of their machine.

    Gives their names. Raises RunError if there is no such work pool.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            raise RunError(
                f"Prefect has no work pool {pool}: `prefect work-pool create {pool} --type process` creates one."
            ) from None
    made = everything(chosen, pool)
    for one in made:
        compat.run_in(one, home.VARIABLE)

    def apply(one: "RunnerDeployment") -> UUID:
        return cast(UUID, one.apply(work_pool_name=pool))  # outside of an event loop, no coroutine

    _register(made, apply, pool)
    return [f"{one.flow_name}/{one.name}" for one in made]


def _register(made: "list[RunnerDeployment]", add: "Callable[[RunnerDeployment], UUID]", pool: str | None) -> None:
    from prefect.client.orchestration import get_client

    known = {add(one): one.name for one in made}
    with get_client(sync_client=True) as client:
        for identity, name in known.items():
            if name not in (EVALUATE, BUILD, CLEANING):
                limit(client, identity, ONE_DEPLOYMENT if name in (DEPLOY, FOLLOW) else ONE_RETRAINING)
        for found in _ours(client, pool):
            if found.id not in known:
                _patch(client, found.id, global_concurrency_limit_id=None)  # it would be deleted too
                client.delete_deployment(found.id)


def limit(client: "SyncPrefectClient", deployment: UUID, name: str) -> None:
    """Let runs of this Prefect deployment, and of all others with the same limit, wait for one another.

    The deployment is registered with a limit of 1. Without one, Prefect's server would delete the shared limit at the next
    registration, and runs that hold its slot could not be set to another state. A limit of the deployment's own, which the
    server makes at the first registration and names by a UUID, is removed.
    """
    from prefect.exceptions import ObjectNotFound

    client.upsert_global_concurrency_limit_by_name(name, 1)
    identity = client.read_global_concurrency_limit_by_name(name).id
    options = {"collision_strategy": "ENQUEUE"}
    _patch(client, deployment, global_concurrency_limit_id=str(identity), concurrency_options=options)
    with suppress(ObjectNotFound):
        client.delete_global_concurrency_limit_by_name(f"deployment:{deployment}")


def _patch(client: "SyncPrefectClient", deployment: UUID, **changed: Any) -> None:
    client.request("PATCH", "/deployments/{id}", path_params={"id": deployment}, json=changed)


def _ours(client: "SyncPrefectClient", pool: str | None, *names: str) -> "list[DeploymentResponse]":
    """The Prefect deployments of these flows (none: all) of a work pool, or (None) that a process of this project serves."""
    from prefect.client.schemas.filters import FlowFilter

    flows = FlowFilter.model_validate({"name": {"any_": list(names or FLOWS)}})
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(flow_filter=flows, limit=200, offset=len(found)):
        found += page
    return [one for one in found if one.work_pool_name == pool and (one.entrypoint or "").startswith("flows.")]


def _schedule_is_active(client: "SyncPrefectClient", pool: str | None) -> bool:
    schedules = [schedule for one in _ours(client, pool, "retrain") for schedule in one.schedules]
    return not schedules or any(schedule.active for schedule in schedules)


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
        known = [one.id for one in _ours(client, None)]
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": begun}}}),
            deployment_filter=DeploymentFilter.model_validate({"id": {"any_": known}}),
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
    """Serve the deployments until the process ends, or register them with a work pool."""
    arguments = argparse.ArgumentParser(prog="python -m flows.deployments", description=main.__doc__)
    arguments.add_argument("--pool", metavar="NAME", help="register with this work pool and end")
    pool = arguments.parse_args().pool
    home.enter()
    settings.prepare()
    chosen = settings.read()
    if "PREFECT_API_URL" not in os.environ:  # Prefect has read its settings when it was imported, above
        os.environ["PREFECT_API_URL"] = f"{chosen.prefect_url}/api"
        os.execv(sys.executable, [sys.executable, "-m", "flows.deployments", *sys.argv[1:]])
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(chosen.heartbeat))
    from flows import schedules, up

    schedules.check(chosen)
    deadline = time.monotonic() + PATIENCE
    while not settings.answers(f"{os.environ['PREFECT_API_URL']}/health"):
        if pool or time.monotonic() > deadline:
            raise RunError(f"No Prefect server answers at {os.environ['PREFECT_API_URL']}: run `storyreason up`.")
        time.sleep(0.2)
    from flows import automations

    if pool:
        names = offer(pool, chosen)
        automations.apply(chosen)
        print(f"work pool {pool} has: {', '.join(names)}")  # noqa: T201 - what a command says
        return
    from prefect.runner import Runner

    compat.let_cancel_after_an_outage()

    class AtOnce(Runner):
        """Exits at once on SIGTERM. Its runs are then interrupted as by a crash, and the next process resumes them."""

        def handle_sigterm(self, *_: object, **__: object) -> None:
            os._exit(0)

    runner = AtOnce(pause_on_shutdown=False)
    register(runner, chosen)
    automations.apply(chosen)
    tracking.experiment()  # so that MLflow's page of runs exists before the first one
    cards.relink()
    for name in resume_interrupted():
        print(f"{name} resumes", flush=True)  # noqa: T201 - the log of this process
    if chosen.follow:
        from flows import follow

        begin = partial(follow.start, preset=chosen.preset)
        threading.Thread(target=follow.watch, args=(chosen, begin, threading.Event()), daemon=True).start()
    runs.write_text(up.ready_file(), "")
    asyncio.run(runner.start())


if __name__ == "__main__":
    try:
        main()
    except StoryReasonError as error:
        sys.exit(str(error))
