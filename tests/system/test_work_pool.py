"""The Prefect deployments of a work pool, and a worker: the commands of docs/operations.md."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.docs import commands
from tests.system.conftest import REPOSITORY, prefect_api, wait_for

pytestmark = pytest.mark.server


@pytest.fixture
def server(prefect_server: dict[str, str]) -> Iterator[httpx.Client]:
    with prefect_api(prefect_server["PREFECT_API_URL"]) as client:
        yield client


def test_a_work_pool_gets_the_same_deployments_and_a_worker(
    server: httpx.Client, prefect_server: dict[str, str], tmp_path: Path
) -> None:
    """The commands of docs/operations.md, in their order."""
    environment = {**prefect_server, "STORYREASON_HOME": str(REPOSITORY), "STORYREASON_RUNS": str(tmp_path)}
    pool, deploy, work = (
        [str(Path(sys.executable).parent / command.words[0]), *command.words[1:]]
        for command in commands.run_by(commands.WORK_POOL)
    )

    for command in (pool, deploy):
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    worker = subprocess.Popen(work, cwd=tmp_path, env=environment)
    try:
        wait_for(lambda: server.post("/work_pools/storyreason/workers/filter", json={}).json(), "the worker")
    finally:
        worker.kill()  # it has no run; on a busy machine its own end takes more than a minute
        worker.wait()

    for name in ("retrain/retrain-sample", "evaluate/evaluate-version", "deploy/deploy-version", "clean/clean-disk"):
        found = server.get(f"/deployments/name/{name}").json()
        assert found["work_pool_name"] == "storyreason"
        server.delete(f"/deployments/{found['id']}").raise_for_status()
    server.delete("/work_pools/storyreason").raise_for_status()
