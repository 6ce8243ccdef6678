"""kill -9 of every part of the platform during a training: the run continues or ends as documented, and makes one version.

The tests stand in the order of the story that they tell. Two trainings are enough for all of it: one that nothing disturbs
although its servers are killed, and one that is cancelled, then ended three times, and goes on from its checkpoints.
"""

import contextlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from tests.system.conftest import Platform, wait_for

pytestmark = pytest.mark.server
STEPS = {"undisturbed": 50, "ended": 22}
"""Optimizer steps of the two trainings: the first must last longer than the restart of all servers."""


def parameters(platform: Platform, name: str, devices: str | None = "0") -> dict[str, Any]:
    """What the form sends for one of the two trainings. Its device is not part of its fingerprint."""
    others = [f"training.max_steps={STEPS[name]}", "training.accumulation=2", f"training.devices={devices or 'null'}"]
    return {"overrides": others, "until": "register"}


def work(platform: Platform, name: str) -> Path | None:
    """The work folder of a training, once it has started."""
    for file in platform.project.runs.glob("train/*/progress.jsonl"):
        if f'"steps": {STEPS[name]}' in file.read_text():
            return file.parent
    return None


def steps(platform: Platform, name: str) -> list[int]:
    folder = work(platform, name)
    lines = (folder / "progress.jsonl").read_text().splitlines(keepends=True) if folder else []
    told = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line["step"] for line in told if line["event"] == "step"]


def computes(platform: Platform, name: str) -> int:
    """Wait for another step of a training, and give its number."""
    before = len(steps(platform, name))
    wait_for(lambda: len(steps(platform, name)) > before, f"a step of the {name} training")
    assert not list(work(platform, name).glob("manifest.json"))  # type: ignore[union-attr]
    return steps(platform, name)[-1]


def guard_of(platform: Platform, command: str) -> psutil.Process:
    """The guard of a line of the Procfile; the younger process with the same command line is its second."""

    def is_guard(words: list[str]) -> bool:  # the shell that it starts has the line, too, until it becomes the command
        return f"exec {command}" in " ".join(words) and any("guard" in word for word in words[:4])

    found = [one for one, words in platform.processes().items() if is_guard(words)]
    return min(found, key=psutil.Process.create_time)


def part(platform: Platform, command: str) -> psutil.Process:
    """The process of a line of the Procfile."""
    guard = guard_of(platform, command)
    found = platform.processes()
    mine = [one for one in guard.children() if found.get(one, found[guard]) != found[guard]]
    return min(mine, key=psutil.Process.create_time)


def kill(platform: Platform, health: dict[str, str]) -> None:
    """kill -9 of parts, each given with the address of its health; all their processes must end, and be started again."""
    before = {command: guard_of(platform, command).pid for command in health}
    for command in health:
        part(platform, command).kill()

    def answers(command: str) -> bool:
        try:
            again = guard_of(platform, command).pid != before[command]
            return again and httpx.get(health[command], trust_env=False).is_success
        except (httpx.HTTPError, psutil.Error, ValueError):
            return False

    for command in health:
        wait_for(partial(answers, command), f"{command} to be started again and to answer")


def trainers(platform: Platform) -> list[str]:
    return [line for line in platform.marked() if "storyreason.training" in line]


def logs(platform: Platform, identity: str) -> str:
    """What a run's page in Prefect's UI shows."""
    asked = {"logs": {"flow_run_id": {"any_": [identity]}}, "limit": 200, "sort": "TIMESTAMP_DESC"}
    return "\n".join(one["message"] for one in platform.ask("POST", "/logs/filter", asked))


def slots(platform: Platform, name: str) -> int:
    return int(platform.ask("GET", f"/v2/concurrency_limits/{name}")["active_slots"])


def check_one_version(platform: Platform, name: str, number: int) -> None:
    """A training made one version and one run, its curve has every step once, and nothing is held or left behind."""
    mlflow = MlflowClient(f"sqlite:///{platform.project.runs}/mlflow/mlflow.db")
    versions = mlflow.search_model_versions("name = 'storyteller-smoke'")
    assert len(versions) == number
    runs = [run for run in mlflow.search_runs(["1"]) if run.data.params["training.max_steps"] == str(STEPS[name])]
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert [one.run_id for one in versions].count(runs[0].info.run_id) == 1
    every = list(range(1, STEPS[name] + 1))
    assert steps(platform, name) == every
    assert [point.step for point in mlflow.get_metric_history(runs[0].info.run_id, "train/loss")] == every
    assert trainers(platform) == []
    limit = platform.deployment("retrain")["global_concurrency_limit"]["id"]
    wait_for(lambda: slots(platform, "accelerator-0") == slots(platform, limit) == 0, "all slots to be free", 180)


@pytest.fixture(scope="module")
def undisturbed(platform: Platform) -> str:
    """The run of the first training, which is running."""
    platform.project.run("up")
    identity: str = platform.start(parameters(platform, "undisturbed"))["id"]
    computes(platform, "undisturbed")
    return identity


def test_all_servers_are_killed_and_the_training_keeps_its_slot_and_completes(
    platform: Platform, undisturbed: str
) -> None:
    kill(
        platform,
        {
            "mlflow server": f"{platform.url('MLFLOW')}/health",
            "storyreason serve": platform.url("GATEWAY"),
            "python -m flows.server": f"{platform.url('PREFECT')}/api/health",
        },
    )

    computes(platform, "undisturbed")
    assert platform.run(undisturbed)["state_name"] == "Running"
    wait_for(lambda: slots(platform, "accelerator-0") == 1, "the slot, if Prefect took it away, to be held again", 60)
    assert platform.wait_until_complete(undisturbed)["run_count"] == 1
    check_one_version(platform, "undisturbed", 1)


def test_a_cancelled_run_ends_with_all_of_it_and_says_what_it_kept(platform: Platform) -> None:
    identity = platform.start(parameters(platform, "ended"))["id"]
    computes(platform, "ended")
    (flow,) = (one for one, words in platform.processes().items() if "prefect.engine" in " ".join(words))

    # What the button in Prefect's UI sends.
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    platform.ask("POST", f"/flow_runs/{identity}/set_state", cancelling, 201)

    wait_for(lambda: platform.run(identity)["state_type"] == "CANCELLED", "the run to be cancelled")
    wait_for(lambda: not trainers(platform) and not flow.is_running(), "its processes to end", 60)
    wait_for(lambda: "Kept: checkpoint" in logs(platform, identity), "what was kept in the run's log", 60)
    mlflow = MlflowClient(f"sqlite:///{platform.project.runs}/mlflow/mlflow.db")
    (run,) = (one for one in mlflow.search_runs(["1"]) if one.data.params["training.max_steps"] == str(STEPS["ended"]))
    assert run.info.status == "KILLED"
    limit = platform.deployment("retrain")["global_concurrency_limit"]["id"]
    wait_for(lambda: slots(platform, "accelerator-0") == slots(platform, limit) == 0, "all slots to be free", 60)

    def states() -> set[str]:
        asked = {"flow_runs": {"id": {"any_": [identity]}}}
        return {one["state_type"] for one in platform.ask("POST", "/task_runs/filter", asked)}

    wait_for(lambda: states() == {"COMPLETED", "CANCELLED"}, f"its training to be cancelled, not {states()}", 60)


def test_the_run_of_a_killed_flow_has_crashed_and_says_what_to_do(platform: Platform) -> None:
    before = steps(platform, "ended")[-1]
    identity = platform.start(parameters(platform, "ended"))["id"]
    assert computes(platform, "ended") > before  # it goes on where the cancelled one ended
    (flow,) = (one for one, words in platform.processes().items() if "prefect.engine" in " ".join(words))

    flow.kill()

    wait_for(lambda: platform.run(identity)["state_type"] == "CRASHED", "the run to have crashed")
    assert "SIGKILL" in platform.run(identity)["state"]["message"]
    wait_for(lambda: "Start it again" in logs(platform, identity), "what to do in the run's log", 120)
    wait_for(lambda: not trainers(platform), "the training process to end", 60)


def test_a_restarted_run_survives_a_kill_of_the_process_that_serves_the_deployments(platform: Platform) -> None:
    before = steps(platform, "ended")[-1]
    identity = platform.start(parameters(platform, "ended", devices=None))["id"]
    assert computes(platform, "ended") > before

    part(platform, "python -m flows.deployments").kill()

    wait_for(lambda: platform.run(identity)["run_count"] == 2, "the run to be taken up again")
    computes(platform, "ended")


def test_after_a_kill_of_everything_up_resumes_and_makes_one_version(platform: Platform) -> None:
    (run,) = (one for one in platform.runs() if one["state_type"] == "RUNNING")
    for process in platform.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # of those that end with their owner
            process.kill()
    wait_for(lambda: not platform.marked(), "all processes to be gone", 60)

    platform.project.run("up")

    assert platform.wait_until_complete(run["id"])["run_count"] == 3
    check_one_version(platform, "ended", 2)
