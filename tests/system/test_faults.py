"""Failures around a run: one sentence says what to do where people see it, and the same command continues afterwards.

The tests depend on their order: each continues where the previous one has stopped.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient

from storyreason.errors import GatewayError
from storyreason.serving import client, state
from storyreason.serving.config import ServingConfig
from tests.system.conftest import Project, free_port, prefect_api, wait_for
from tests.tiny import file_size_limit

pytestmark = pytest.mark.server


def failed(project: Project, *arguments: str) -> str:
    """The sentence with which a retraining ends on the command line, which is also the run's message in Prefect."""
    printed = project.run(*project.retrain(*arguments), code=2)
    return said(project, printed)


def said(project: Project, printed: str) -> str:
    assert "Traceback" not in printed
    sentence = printed.strip().splitlines()[-1].removeprefix("storyreason: ")
    with prefect_api(project.environment["PREFECT_API_URL"]) as prefect:
        (last,) = prefect.post("/flow_runs/filter", json={"sort": "START_TIME_DESC", "limit": 1}).json()
    assert last["state_type"] == "FAILED"
    assert sentence in last["state"]["message"]
    return sentence


def steps(project: Project) -> list[int]:
    """The steps of the one training."""
    (file,) = project.runs.glob("train/*/progress.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line["step"] for line in lines if line["event"] == "step"]


def test_a_missing_remote_is_named_and_once_restored_the_run_continues(project: Project) -> None:
    store = project.folder / "deploy" / "sample-store"
    store.rename(store.with_name("elsewhere"))

    assert "does not exist: restore it, or name another with `dvc remote modify" in failed(project, "--until", "pull")

    store.with_name("elsewhere").rename(store)
    project.run(*project.retrain("--until", "pull"))


@contextlib.contextmanager
def mlflow_server(project: Project, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """MLflow's server on the project's own database."""
    (project.runs / "mlflow").mkdir(parents=True, exist_ok=True)
    store = f"sqlite:///{project.runs}/mlflow/mlflow.db"
    with (project.runs / "mlflow" / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [
                *[sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)],
                *["--workers", "1", "--backend-store-uri", store],
                *["--default-artifact-root", (project.runs / "mlflow" / "artifacts").as_uri()],
            ],
            env={**project.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success
        return False

    try:
        wait_for(answers, "MLflow's server")
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_an_mlflow_outage_is_named_and_the_training_resumes_afterwards(project: Project) -> None:
    port = free_port()
    there = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    logging = replace(project, environment={**project.environment, **there})
    with mlflow_server(project, port) as server:
        process = logging.start(*logging.retrain("--until", "train"))
        wait_for(lambda: list(project.runs.glob("train/*/checkpoint-2")), "the first checkpoint")
        os.killpg(server.pid, signal.SIGKILL)
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 2, printed
    sentence = said(logging, printed)
    assert f"MLflow's server at http://127.0.0.1:{port} does not answer: start it" in sentence
    assert "Start it again: complete steps are not repeated" in sentence
    wait_for(lambda: not project.processes("storyreason.training"), "the training process to end", 30)
    before = steps(project)
    assert before[-1] >= 2

    project.run(*project.retrain("--until", "train"))  # to the same database

    assert steps(project) == list(range(1, 9))
    (run,) = MlflowClient(f"sqlite:///{project.runs}/mlflow/mlflow.db").search_runs(["1"])
    assert run.info.status == "FINISHED"
    curve = MlflowClient(f"sqlite:///{project.runs}/mlflow/mlflow.db").get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in curve] == list(range(1, 9))


def test_a_full_disk_is_named_and_with_free_space_the_run_continues(project: Project) -> None:
    with file_size_limit(6_000_000):  # less than the weights, more than the databases
        sentence = failed(project, "--until", "register")
    assert "The disk is full" in sentence and "storyreason clean --keep 1" in sentence
    assert not list(project.runs.glob("register/*/model"))

    project.run(*project.retrain("--until", "register"))

    assert steps(project) == list(range(1, 9))
    assert len(MlflowClient(f"sqlite:///{project.runs}/mlflow/mlflow.db").search_model_versions()) == 1


def test_file_times_years_ahead_repeat_nothing(project: Project) -> None:
    ahead = time.time() + 10 * 365 * 86400
    for top in (project.runs / "train", project.runs / "register", project.runs / "pull", project.folder / "data"):
        for path in (top, *top.rglob("*")):
            os.utime(path, (ahead, ahead))

    printed = project.run(*project.retrain("--until", "register"))

    for task in ("pull", "train", "register"):
        assert any(task in line and "Cached" in line for line in printed.splitlines()), (task, printed)


def test_two_concurrent_flows_with_one_fingerprint_make_one_run(project: Project) -> None:
    changed = ["--set", "training.learning_rate=2e-3", "--set", "training.max_steps=4", "--until", "register"]
    both = [project.start(*project.retrain(*changed)) for _ in range(2)]
    ended = [(process.communicate(timeout=900)[0], process.returncode) for process in both]

    # The second takes what the first has made, or, where that lasts, says who is at it.
    assert 0 in [code for _, code in ended], ended
    for printed, code in ended:
        assert code == 0 or "is being written by process" in printed.strip().splitlines()[-1], printed
    project.run(*project.retrain(*changed))

    mlflow = MlflowClient(f"sqlite:///{project.runs}/mlflow/mlflow.db")
    runs = [run for run in mlflow.search_runs(["1"]) if run.data.params["training.learning_rate"] == "0.002"]
    assert len(runs) == 1
    assert [one.run_id for one in mlflow.search_model_versions()].count(runs[0].info.run_id) == 1
    curve = [point.step for point in mlflow.get_metric_history(runs[0].info.run_id, "train/loss")]
    assert curve == [1, 2, 3, 4]
    (log,) = (path for path in project.runs.glob("train/*/progress.jsonl") if "0.002" in _job(path.parent))
    starts = [line for line in log.read_text().splitlines() if json.loads(line)["event"] == "start"]
    assert len(starts) == 1


def _job(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("job*.json"))


def test_a_gateway_killed_during_a_deployment_is_reported_and_restarted(
    untrained: Path, serving: ServingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    config = serving.model_copy(update={"port": free_port()})
    client.ensure_running(config)
    first = state.address()
    assert first is not None
    failures: list[Any] = []

    def deploy() -> None:
        with pytest.raises(GatewayError) as caught:
            client.deploy(config, folder=untrained, version="1")
        failures.append(caught.value)

    deploying = threading.Thread(target=deploy)
    deploying.start()
    try:
        wait_for(lambda: client.status(config).deploying == "1", "the deployment to begin")
        os.kill(first.pid, signal.SIGKILL)
        deploying.join(60)
        assert "closed the connection" in str(failures[0]) and "run this command again" in str(failures[0])
        with pytest.raises(GatewayError, match=r"No gateway answers at .*: start it with `storyreason serve`"):
            client.status(config)

        client.ensure_running(config)  # as the deploy step does in its next try

        now = state.address()
        assert now is not None and now.pid != first.pid
        assert client.status(config).deploying is None
    finally:
        client.stop()
