"""`storyreason up`: the platform of one checkout, automatic runs, and recovery after a crash.

The tests stand in the order of the story that they tell. Runs are whole, with the `smoke` preset: from the data to what serves.
"""

import json
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from docs import pictures
from storyreason import dataset, sample
from tests.system import shown
from tests.system.conftest import Platform, wait_for

pytestmark = pytest.mark.server


def test_up_starts_everything_and_says_where(platform: Platform) -> None:
    (platform.project.folder / ".env").write_text("STORYREASON_FOLLOW=true\n")
    printed = platform.project.run("up")

    for part in ("PREFECT", "MLFLOW", "GATEWAY"):
        assert platform.url(part) in printed
    assert httpx.get(f"{platform.url('MLFLOW')}/health", trust_env=False).text == "OK"
    assert platform.served()["healthy"] is False
    flows = ("retrain", "evaluate", "deploy")
    wait_for(lambda: all(platform.deployment(flow)["status"] == "READY" for flow in flows), "the first look for runs")


def test_a_second_up_changes_nothing(platform: Platform) -> None:
    before = sorted(platform.marked())

    printed = platform.project.run("up")

    assert platform.url("PREFECT") in printed
    assert sorted(platform.marked()) == before


def test_status_asks_the_server_of_the_checkout(platform: Platform) -> None:
    """Prefect reads where its server is when it is imported; without that it starts one of its own."""
    printed = platform.project.run("status", "--json")

    assert "temporary server" not in printed
    found = json.loads(printed[printed.index("{") :])
    assert found["up"] and found["servers"]["prefect"]["answers"]
    assert isinstance(found["active"], list) and isinstance(found["approvals"], list)


def test_the_form_says_ranges_and_what_an_empty_field_means(platform: Platform) -> None:
    deployment = platform.deployment("retrain")

    schema = deployment["parameter_openapi_schema"]
    rate = schema["properties"]["learning_rate"]
    assert (rate["exclusiveMinimum"], rate["maximum"]) == (0, 1)
    assert "Empty: the preset's, 0.001." in rate["description"]
    assert deployment["parameters"] == {"preset": "smoke"}
    assert deployment["enforce_parameter_schema"] is True


def test_of_two_runs_started_by_hand_one_waits_and_both_complete(platform: Platform) -> None:
    other = {"learning_rate": 2e-3, "until": "evaluate"}

    runs = [platform.start(chosen, name=name)["id"] for chosen, name in (({}, None), (other, "my second try"))]

    names: set[str] = set()

    def waited() -> bool:
        names.update(platform.run(identity)["state_name"] for identity in runs)
        return "AwaitingConcurrencySlot" in names

    wait_for(waited, "one run to wait for the other", 600)
    first, second = sorted((platform.wait_until_complete(identity) for identity in runs), key=lambda r: r["start_time"])
    assert second["start_time"] >= first["end_time"]
    assert {first["name"], second["name"]} == {"retrain-smoke", "my second try"}
    assert platform.served()["healthy"] is True


@pytest.mark.parametrize("check", shown.CHECKS, ids=lambda check: check.__name__)
def test_what_the_browser_shows(platform: Platform, browser: Any, check: Any) -> None:
    complaints: list[str] = []
    page = pictures.window(browser)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda told: complaints.append(told.text) if told.type == "error" else None)

    try:
        check(page, platform.url("PREFECT"), platform.url("MLFLOW"))
    finally:
        page.close()  # Prefect's page of a run draws without end
    assert [one for one in complaints if not any(known in one for known in shown.NOT_OURS)] == []


def test_a_new_data_version_starts_a_run_that_serves_its_result(platform: Platform, tmp_path: Path) -> None:
    known = {run["id"] for run in platform.runs()}
    joining = [
        replace(one, story_id=f"joined-{number}") for number, one in enumerate(sample.examples("train", films=1))
    ]
    dataset.write(joining, tmp_path, "train")

    printed = platform.project.run("data", "add", str(tmp_path))

    assert "train: 960 -> 962 stories, 2 added (joined-0, joined-1)" in printed
    assert "Prefect is notified" in printed
    _completes_by_the_event(platform, known)
    assert platform.served()["version"] == "3"
    known = {run["id"] for run in platform.runs()}
    assert "Prefect is notified" in platform.project.run("data", "announce")
    _completes_by_the_event(platform, known)
    assert platform.served()["version"] == "3"  # nothing had changed


def _completes_by_the_event(platform: Platform, known: set[str]) -> None:
    wait_for(lambda: {run["id"] for run in platform.runs()} - known, "the run that the event starts", 300)
    (identity,) = {run["id"] for run in platform.runs()} - known
    assert platform.run(identity)["created_by"]["type"] == "AUTOMATION"
    platform.wait_until_complete(identity)


def test_a_cron_starts_a_run_each_minute_in_its_time_zone(platform: Platform) -> None:
    deployment = platform.deployment("retrain")
    (weekly,) = deployment["schedules"]
    assert weekly["schedule"]["cron"] == "0 4 * * 1"
    assert weekly["schedule"]["timezone"] == "UTC"
    every_minute = {"active": True, "schedule": {"cron": "* * * * *", "timezone": "UTC"}}
    (made,) = platform.ask("POST", f"/deployments/{deployment['id']}/schedules", [every_minute], code=201)

    def done() -> list[Any]:
        return [r for r in platform.runs() if r["auto_scheduled"] and r["state_type"] == "COMPLETED"]

    wait_for(done, "a run that the cron started", 900)
    client = platform.client
    assert client.delete(f"/deployments/{deployment['id']}/schedules/{made['id']}").status_code == 204
    wait_for(lambda: not [r for r in platform.runs() if r["state_type"] in ("PENDING", "RUNNING")], "its last run", 300)


def test_moving_the_champion_in_mlflow_deploys_it_and_a_broken_version_is_moved_back(platform: Platform) -> None:
    def mlflow(method: str, path: str, **body: str) -> Any:
        """As MLflow's page asks its server."""
        asked = {"params": body} if method == "GET" else {"json": body}
        url = f"{platform.url('MLFLOW')}/api/2.0/mlflow/{path}"
        answer = httpx.request(method, url, timeout=300, trust_env=False, **asked)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        return answer.json()

    model = {"name": "storyteller-smoke"}

    def aliases() -> dict[str, str]:
        found = mlflow("GET", "registered-models/get", **model)["registered_model"]["aliases"]
        return {one["alias"]: one["version"] for one in found}

    before = str(platform.served()["version"])
    other = "1" if before != "1" else "2"
    mlflow("POST", "registered-models/alias", **model, alias="champion", version=other)
    wait_for(lambda: platform.served()["version"] == other, f"version {other} to be served", 600)
    wait_for(lambda: aliases().get("previous") == before, "the old champion to be previous", 60)

    broken = mlflow("POST", "model-versions/create", **model, source="s3://nobody/model")["model_version"]["version"]
    mlflow("POST", "registered-models/alias", **model, alias="champion", version=broken)
    wait_for(lambda: aliases()["champion"] == other, "the alias to be moved back", 300)
    told = mlflow("GET", "model-versions/get", **model, version=broken)["model_version"]["tags"]
    assert (
        "was not registered by a retraining"
        in {tag["key"]: tag["value"] for tag in told}["storyreason.champion_refused"]
    )
    assert platform.served()["version"] == other


def test_after_a_kill_the_platform_resumes_its_runs_and_down_leaves_no_process(platform: Platform) -> None:
    identity = platform.start({"learning_rate": 5e-4, "until": "train"})["id"]
    progress = platform.project.runs / "train"
    done = len(list(progress.glob("*/manifest.json")))
    wait_for(lambda: len(list(progress.glob("*/progress.jsonl"))) > done, "the training process", 900)
    supervisor = int((platform.project.runs / "up" / "supervisord.pid").read_text())

    os.kill(supervisor, signal.SIGKILL)
    platform.project.run("up")

    assert platform.run(identity)["state_type"] in ("SCHEDULED", "PENDING", "RUNNING", "COMPLETED")
    finished = platform.wait_until_complete(identity)
    assert finished["run_count"] == 2
    assert len(list(progress.glob("*/manifest.json"))) == done + 1
    platform.project.run("down")
    assert platform.marked() == []


def test_a_taken_port_is_named(platform: Platform) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the server before linger on it
        taken.bind(("127.0.0.1", int(platform.project.environment["STORYREASON_MLFLOW_PORT"])))
        taken.listen()
        printed = platform.project.run("up", code=2)
    assert "STORYREASON_MLFLOW_PORT" in printed and "Traceback" not in printed
