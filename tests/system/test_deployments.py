"""The Prefect deployments on a real server: how they are registered, what users have changed, and runs whose process is gone."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import prefect
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import SetStateStatus
from prefect.events.worker import EventsWorker
from prefect.runner import Runner
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Paused, Pending, Running, State

from flows import automations, deployments, status
from flows.clean import clean
from storyreason import config
from tasks import cards, gate, pace, registry
from tasks.settings import Settings
from tests.system.conftest import prefect_api, wait_for

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(prefect_server: dict[str, str]) -> Iterator[httpx.Client]:
    url = prefect_server["PREFECT_API_URL"]
    with temporary_settings({PREFECT_API_URL: url}), prefect_api(url) as client:
        yield client


def known(server: httpx.Client) -> Any:
    return server.get("/deployments/name/retrain/retrain-smoke").raise_for_status().json()


def apply(**chosen: Any) -> None:
    deployments.register(Runner(), Settings.model_validate({"preset": "smoke", **chosen}))


@pytest.fixture(scope="module")
def applied(server: httpx.Client) -> None:
    """They are registered, for tests that only look at them or start runs of them."""
    apply()


def test_the_schedule_is_read_in_its_time_zone_and_a_paused_one_stays_paused(server: httpx.Client) -> None:
    apply(cron="30 5 * * 2", timezone="Europe/Berlin")

    (schedule,) = known(server)["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("30 5 * * 2", "Europe/Berlin")
    assert schedule["active"] is True
    server.patch(
        f"/deployments/{known(server)['id']}/schedules/{schedule['id']}", json={"active": False}
    ).raise_for_status()

    apply(cron="0 6 * * *")

    (schedule,) = known(server)["schedules"]
    assert (schedule["schedule"]["cron"], schedule["active"]) == ("0 6 * * *", False)


def test_cleaning_is_scheduled_by_a_setting_and_switched_off_without_it(server: httpx.Client) -> None:
    def schedule() -> tuple[str, bool]:
        (one,) = server.get("/deployments/name/clean/clean-disk").raise_for_status().json()["schedules"]
        return one["schedule"]["cron"], one["active"]

    apply(clean="0 3 * * *")
    assert schedule() == ("0 3 * * *", True)
    apply()
    assert schedule() == (deployments.CLEAN, False)


def test_cleaning_while_a_run_is_active_removes_nothing_and_says_so(
    server: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("PREFECT_API_URL", str(server.base_url))
    deployment = server.get("/deployments/name/evaluate/evaluate-version").raise_for_status().json()
    made = server.post(f"/deployments/{deployment['id']}/create_flow_run", json={"state": {"type": "SCHEDULED"}}).json()
    with get_client(sync_client=True) as client:
        begun: tuple[State[Any], ...] = (Pending(), Running())
        for state in begun:
            client.set_flow_run_state(UUID(made["id"]), state, force=True)
        during = clean(return_state=True)
        client.set_flow_run_state(UUID(made["id"]), Completed(), force=True)
    after = clean(return_state=True)

    assert during.name == "Skipped" and "is active: try again when it has ended" in str(during.message)
    assert after.message == "0 folders removed, 0.0 MB"  # its own run does not count


def test_status_names_runs_under_way_and_those_that_wait_for_an_answer(
    server: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", str(server.base_url).rstrip("/"))
    deployment = server.get("/deployments/name/evaluate/evaluate-version").raise_for_status().json()
    names, artifacts = [], []
    with get_client(sync_client=True) as client:
        states: tuple[State[Any], ...] = (Running(), Paused(timeout_seconds=600))
        for state in states:
            body = {"state": {"type": "SCHEDULED"}, "name": f"in state {state.name}"}
            made = server.post(f"/deployments/{deployment['id']}/create_flow_run", json=body).json()
            client.set_flow_run_state(UUID(made["id"]), state, force=True)
            names.append((made["name"], made["id"]))
        (running, identity), (paused, paused_identity) = names
        assert [run["left"] for run in status._active() if run["name"] == running] == [None]
        for key, line in (
            ("retraining", "train: 10 min as a rule; 12 min until all is done"),
            ("training", "step 2/9"),
        ):
            said = {"key": key, "type": "progress", "data": 1.0, "flow_run_id": identity, "description": line}
            artifacts.append(server.post("/artifacts/", json=said).raise_for_status().json()["id"])
        assert [run["left"] for run in status._active() if run["name"] == running] == [
            "train: 10 min as a rule; 12 min until all is done"
        ]
        shown = {run["name"]: run["address"] for run in status._active()}
        assert shown[running].endswith(f"/runs/flow-run/{identity}") and paused not in shown
        waiting = {run["name"]: run["address"] for run in status._approvals()}
        assert waiting[paused].endswith(f"/runs/flow-run/{paused_identity}") and running not in waiting
        for _, one in names:
            client.set_flow_run_state(UUID(one), Completed(), force=True)
        for one in artifacts:
            server.delete(f"/artifacts/{one}").raise_for_status()


def test_the_time_that_a_run_still_takes_is_its_artifact(
    server: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    for step, seconds in (("train", 600.0), ("deploy", 120.0)):
        pace.remember("sample", step, seconds)

    @prefect.flow
    def timed() -> None:
        with pace.Clock("sample", "deploy", {}).step("train"):
            pass

    timed()

    wanted = {"artifacts": {"key": {"any_": ["retraining"]}}}
    (shown,) = server.post("/artifacts/filter", json=wanted).raise_for_status().json()
    assert shown["description"].startswith("train: 10 min as a rule; 12 min until all is done, at ")


def test_a_run_whose_process_is_gone_is_scheduled_again_and_its_slot_is_free(server: httpx.Client) -> None:
    apply()
    deployment = known(server)
    made = server.post(f"/deployments/{deployment['id']}/create_flow_run", json={"state": {"type": "SCHEDULED"}}).json()
    with get_client(sync_client=True) as client:
        states: tuple[State[Any], ...] = (Pending(), Running())
        for state in states:  # as its process did, before it was killed
            assert client.set_flow_run_state(UUID(made["id"]), state).status == SetStateStatus.ACCEPT
    limit = deployment["global_concurrency_limit"]["id"]
    assert server.get(f"/v2/concurrency_limits/{limit}").json()["active_slots"] == 1
    flow = deployment["flow_id"]
    body = {
        "name": "obsolete",
        "flow_id": flow,
        "entrypoint": "flows.retrain.retrain",
        "global_concurrency_limit_id": limit,
    }
    server.post("/deployments/", json=body).raise_for_status()

    apply()  # as the next process does
    assert server.get(f"/v2/concurrency_limits/{limit}").raise_for_status().json()["active_slots"] == 1
    resumed = deployments.resume_interrupted()

    assert resumed == [made["name"]]
    assert server.get(f"/flow_runs/{made['id']}").json()["state_type"] == "SCHEDULED"
    assert server.get(f"/v2/concurrency_limits/{limit}").json()["active_slots"] == 0
    assert deployments.resume_interrupted() == []
    server.delete(f"/flow_runs/{made['id']}").raise_for_status()


def test_deployments_are_named_for_strangers_and_retrainings_share_one_limit(server: httpx.Client) -> None:
    old = server.post("/flows/", json={"name": "retrain"}).json()["id"]
    body = {"name": "storyteller", "flow_id": old, "entrypoint": "flows.retrain.retrain"}  # as older code left it
    server.post("/deployments/", json=body).raise_for_status()

    apply()

    found = server.post("/deployments/filter", json={}).json()
    ours = {one["name"]: one for one in found if (one["entrypoint"] or "").startswith("flows.")}
    assert ours.keys() == {
        *map(deployments.retraining, config.presets()),
        "evaluate-version",
        "deploy-version",
        "build-data",
        "clean-disk",
    }
    assert "whole pipeline on a laptop" in ours["retrain-sample"]["description"]
    limits = {name: (one["global_concurrency_limit"] or {}).get("name") for name, one in ours.items()}
    assert limits.pop("evaluate-version") is limits.pop("build-data") is limits.pop("clean-disk") is None
    assert limits.pop("deploy-version") == "one deployment at a time"
    assert set(limits.values()) == {"one retraining at a time"}
    names = {one["name"] for one in server.post("/v2/concurrency_limits/filter", json={}).json()}
    assert not [name for name in names if name.startswith("deployment:")]


def started(server: httpx.Client, code: int = 201, **parameters: Any) -> Any:
    body = {"state": {"type": "SCHEDULED"}, "parameters": parameters}
    answer = server.post(f"/deployments/{known(server)['id']}/create_flow_run", json=body)
    assert answer.status_code == code, answer.text
    return answer.json()


def test_a_form_has_at_most_12_fields_and_says_what_an_empty_one_means(server: httpx.Client, applied: None) -> None:
    found = server.post("/deployments/filter", json={}).json()

    for one in found:
        assert len(one["parameter_openapi_schema"]["properties"]) <= 12, one["name"]
        assert all(field["description"] for field in one["parameter_openapi_schema"]["properties"].values())
    fields = known(server)["parameter_openapi_schema"]["properties"]
    assert fields["learning_rate"]["description"].endswith("Empty: the preset's, 0.001.")
    assert fields["preset"]["enum"] == ["smoke"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"learning_rate": 7}, "7"),
        ({"mode": "everything"}, "everything"),
        ({"lerning_rate": 0.1}, "lerning_rate"),
        (
            {"overrides": ["training.lerning_rate=0.1"]},
            "'training.lerning_rate=0.1' is not one of ['KEY=VALUE, with a key",
        ),
        ({"overrides": ["training.mode=everything"]}, "'training.mode=everything' is not one of"),
        ({"overrides": ["training.liger=perhaps"]}, "is not one of"),
        ({"overrides": ["training"]}, "is not one of"),
    ],
    ids=str,
)
def test_the_server_refuses_a_wrong_value_before_a_run_exists(
    server: httpx.Client, applied: None, fault: dict[str, Any], said: str
) -> None:
    before = server.post("/flow_runs/count", json={}).json()
    assert said in started(server, code=409, **fault)["detail"]
    assert server.post("/flow_runs/count", json={}).json() == before


def test_the_server_accepts_overrides_as_set_takes_them(server: httpx.Client, applied: None) -> None:
    good = ["training.learning_rate=1e-4", "training.liger=true", "training.devices=0,1", "training.max_steps=null"]
    run = started(server, overrides=[*good, "evaluation.decodings=[free]", "generation.request=Tell: a story."])
    server.delete(f"/flow_runs/{run['id']}").raise_for_status()


def automations_of(server: httpx.Client) -> dict[str, Any]:
    found = server.post("/automations/filter", json={}).raise_for_status().json()
    return {one["name"]: one for one in found if one["name"].startswith("storyreason: ")}


def test_automations_are_created_once_and_a_disabled_one_stays_disabled(server: httpx.Client) -> None:
    told = Settings.model_validate({"notify": "json://127.0.0.1:9/told"})
    automations.apply(told)
    obsolete = dict(next(iter(automations_of(server).values()))) | {"name": "storyreason: tell that a run is late"}
    server.post("/automations/", json={key: obsolete[key] for key in ("name", "trigger", "actions")}).raise_for_status()
    automations.apply(told)
    before = automations_of(server)
    assert {name.rpartition(" ")[2] for name in before} == {"approval", "crashed", "failed", "late", "promoted"}
    failed = before["storyreason: notify when a run is failed"]
    server.patch(f"/automations/{failed['id']}", json={"enabled": False}).raise_for_status()

    automations.apply(told)

    after = automations_of(server)
    assert {name: one["id"] for name, one in after.items()} == {name: one["id"] for name, one in before.items()}
    assert after["storyreason: notify when a run is failed"]["enabled"] is False
    gone = after["storyreason: a run whose process is gone has crashed"]
    assert gone["trigger"]["within"] >= 3 * Settings().heartbeat

    automations.apply(Settings())  # nobody is to be told any more
    assert set(automations_of(server)) == {"storyreason: a run whose process is gone has crashed"}


def test_links_of_cards_follow_mlflows_port(
    server: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///nowhere.db")
    text = "[its run](http://127.0.0.1:5000/#/experiments/1/runs/a) and http://example.org/#/experiments"
    made = server.post("/artifacts/", json={"key": "scorecard", "type": "markdown", "data": text}).json()["id"]
    monkeypatch.setenv("STORYREASON_MLFLOW_PORT", "5077")

    assert cards.relink() == 1

    shown = server.get(f"/artifacts/{made}").json()["data"]
    assert shown == text.replace("127.0.0.1:5000", "127.0.0.1:5077")
    assert cards.relink() == 0


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[Any]]]:
    """The address of a server that records requests, and what it has received."""
    sent: list[Any] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"json://127.0.0.1:{listening.server_port}/told", sent
        listening.shutdown()
        thread.join()


def test_notifications_of_a_failed_run_a_waiting_one_and_a_version_that_is_not_promoted(
    server: httpx.Client, applied: None, webhook: tuple[str, list[Any]]
) -> None:
    address, sent = webhook
    automations.apply(Settings.model_validate({"notify": address}))
    body = {"state": {"type": "FAILED", "message": "The DVC remote does not exist: restore it."}}
    made = server.post(f"/deployments/{known(server)['id']}/create_flow_run", json=body).json()
    asking = {
        "flow_id": made["flow_id"],
        "name": "approve-storyteller-7",
        "state": {"type": "PAUSED", "name": "Paused"},
    }
    server.post("/flow_runs/", json=asking).raise_for_status()
    version = registry.Version("storyteller", "7", "folder", "0" * 16, "run", "md5")

    gate.announce_held(version.name, version.number, "box F1 fell by 0.1")
    EventsWorker.instance().wait_until_empty()

    wait_for(lambda: len(sent) >= 3, f"three messages, got {sent}", 300)
    told = {message["title"]: message["message"] for message in sent}
    assert "restore it" in told["storyreason: failed"]
    assert made["name"] in told["storyreason: failed"]
    assert "approve-storyteller-7" in told["storyreason: waiting for approval"]
    assert told["storyreason: not promoted"] == "storyteller version 7: box F1 fell by 0.1"
    automations.apply(Settings())
