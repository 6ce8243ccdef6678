"""The Prefect deployments of a work pool, and a worker: the commands of docs/operations.md."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flows import deployments
from storyreason import config
from tests.docs import commands
from tests.system.conftest import REPOSITORY, prefect_api, wait_for

pytestmark = pytest.mark.server


@pytest.fixture
def server(prefect_server: dict[str, str]) -> Iterator[httpx.Client]:
    with prefect_api(prefect_server["PREFECT_API_URL"]) as client:
        yield client


def end(worker: "subprocess.Popen[bytes]") -> None:
    """Kill a worker with its runs; on a busy machine its own end takes more than a minute."""
    for process in [*psutil.Process(worker.pid).children(recursive=True), worker]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    worker.wait()


def worked(server: httpx.Client, identity: str, command: list[str], environment: dict[str, str], folder: Path) -> Any:
    """The run with this ID, once a worker that is started for it has ended it."""
    worker = subprocess.Popen(command, cwd=folder, env={**environment, "STORYREASON_HOME": str(REPOSITORY)})
    try:
        wait_for(
            lambda: server.get(f"/flow_runs/{identity}").json()["state_type"] in ("COMPLETED", "FAILED", "CRASHED"),
            "the worker's run",
        )
    finally:
        end(worker)
    return server.get(f"/flow_runs/{identity}").json()


def test_a_work_pool_gets_the_same_deployments_and_a_worker_runs_them(
    server: httpx.Client, prefect_server: dict[str, str], tmp_path: Path
) -> None:
    """The commands of docs/operations.md, in their order."""
    store = f"sqlite:///{tmp_path}/mlflow.db"
    environment = {**prefect_server, "STORYREASON_RUNS": str(tmp_path), "MLFLOW_TRACKING_URI": store}
    create, register, work = (
        [str(Path(sys.executable).parent / command.words[0]), *command.words[1:]]
        for command in commands.run_by(commands.WORK_POOL)
    )

    # A checkout's own server is found without the variable that names servers elsewhere.
    here = {key: value for key, value in environment.items() if key != "PREFECT_API_URL"}
    here["STORYREASON_PREFECT_PORT"] = str(server.base_url.port)

    def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)

    early = run(register, here)
    for command, variables in ((create, environment), (register, here)):
        done = run(command, variables)
        assert done.returncode == 0, done.stdout + done.stderr

    asked = {"work_pools": {"name": {"any_": ["storyreason"]}}}
    found: list[dict[str, Any]] = server.post("/deployments/filter", json=asked).raise_for_status().json()
    known = {one["name"]: one for one in found}
    try:
        assert early.stderr.splitlines() == [
            "Prefect has no work pool storyreason: `prefect work-pool create storyreason --type process` creates one."
        ]
        assert known.keys() == {
            *map(deployments.retraining, config.presets()),
            *(deployments.EVALUATE, deployments.DEPLOY, deployments.BUILD, deployments.CLEANING),
        }
        limits = {name: (one["global_concurrency_limit"] or {}).get("name") for name, one in known.items()}
        assert limits["retrain-smoke"] == limits["retrain-sample"] == deployments.ONE_RETRAINING
        assert limits[deployments.DEPLOY] == deployments.ONE_DEPLOYMENT

        def start(name: str, **parameters: Any) -> httpx.Response:
            body = {"state": {"type": "SCHEDULED"}, "parameters": parameters}
            return server.post(f"/deployments/{known[name]['id']}/create_flow_run", json=body)

        refused = start("retrain-smoke", lerning_rate=0.1)
        assert refused.status_code == 409 and "lerning_rate" in refused.text

        # Runs that earlier tests on this server killed or left waiting still count as active: nothing would be removed.
        killed = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "PAUSED", "CANCELLING"]}}}}
        for left in server.post("/flow_runs/filter", json=killed).raise_for_status().json():
            crashed = {"state": {"type": "CRASHED"}, "force": True}
            server.post(f"/flow_runs/{left['id']}/set_state", json=crashed).raise_for_status()
        identity = start(deployments.CLEANING).raise_for_status().json()["id"]
        ended = worked(server, identity, work, environment, tmp_path)
        assert ended["state"]["message"] == "0 folders removed, 0.0 MB"
    finally:
        for one in found:
            server.patch(f"/deployments/{one['id']}", json={"global_concurrency_limit_id": None}).raise_for_status()
            server.delete(f"/deployments/{one['id']}").raise_for_status()
        server.delete("/work_pools/storyreason").raise_for_status()
