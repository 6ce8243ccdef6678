"""Approval before promotion, asked for and given as in Prefect's UI, in a flow on a real server."""

import contextvars
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from storyreason.config import RunConfig
from tasks import approval, registry, tracking
from tests.system.conftest import prefect_api, wait_for

pytestmark = pytest.mark.server
REPORT = "# Promote\n\nbox F1 rose by 0.1"


@pytest.fixture
def version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: None) -> registry.Version:
    """A registered version of a run, in a separate MLflow store."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    mlflow = MlflowClient()
    run = mlflow.create_run(tracking.experiment())
    mlflow.create_registered_model("storyteller")
    tags = {"storyreason.folder": str(tmp_path), "storyreason.register": "f" * 16}
    mlflow.create_model_version("storyteller", str(tmp_path), run.info.run_id, tags=tags)
    return registry.version("storyteller", "1")


class Asking:
    """A flow that asks, in a thread; and its answer."""

    def __init__(self, version: registry.Version, timeout: float) -> None:
        self.answer: Any = None
        self.run_id = ""
        config = RunConfig.model_validate({"gate": {"approval": "ask", "approval_timeout": timeout}})

        @flow(name="asks", on_running=[self._started])
        def asks() -> tuple[bool, str]:
            return approval.ask(config, version, REPORT)

        self._flow = asks
        # A thread begins without the settings of the fixture, which a copy of the context has.
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._run,))
        self._thread.start()

    def _started(self, flow: Any, flow_run: Any, state: Any) -> None:
        self.run_id = str(flow_run.id)

    def _run(self) -> None:
        self.answer = self._flow()

    def end(self) -> tuple[bool, str]:
        self._thread.join(300)
        assert self.answer is not None
        return self.answer  # type: ignore[no-any-return]


@pytest.fixture
def server(prefect_server: dict[str, str]) -> Iterator[httpx.Client]:
    url = prefect_server["PREFECT_API_URL"]
    with temporary_settings({PREFECT_API_URL: url}), prefect_api(url) as client:
        yield client


def state(server: httpx.Client, run_id: str) -> str:
    return str(server.get(f"/flow_runs/{run_id}").json()["state_name"]) if run_id else ""


def form(server: httpx.Client) -> str:
    """The ID of the only run that waits for approval."""

    def open_() -> list[Any]:
        asked = {"flows": {"name": {"any_": ["approve"]}}, "flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
        found: list[Any] = server.post("/flow_runs/filter", json=asked).json()
        return found

    wait_for(open_, "the form")
    (waiting,) = open_()
    assert waiting["name"] == "approve-storyteller-1"
    return str(waiting["id"])


def answer(server: httpx.Client, **word: str) -> Any:
    return server.post(f"/flow_runs/{form(server)}/resume", json={"run_input": word}).json()


@pytest.mark.parametrize("decision", ["promote", "hold"])
def test_an_answer_is_followed_and_remembered(server: httpx.Client, version: registry.Version, decision: str) -> None:
    asking = Asking(version, timeout=600)
    assert answer(server, decision="maybe")["status"] == "REJECT"  # it waits on
    assert state(server, asking.run_id) == "Running"  # Prefect would take the turn of a deployment's run that pauses
    assert answer(server, decision=decision, comment="as good as gold")["status"] == "ACCEPT"

    promoted, reason = asking.end()

    assert promoted is (decision == "promote")
    assert decision in reason and "as good as gold" in reason
    assert state(server, asking.run_id) == "Completed"
    tags = registry.tags_of(registry.version("storyteller", "1"))
    assert (tags["approval"], tags["approval_comment"]) == (decision, "as good as gold")
    run = MlflowClient().get_run(version.run_id)
    report = (Path(run.info.artifact_uri.removeprefix("file://")) / "gate/report.md").read_text()
    assert REPORT in report and decision in report

    again = Asking(version, timeout=600)
    assert again.end() == (promoted, reason)  # not asked twice


def test_the_form_shows_the_report(server: httpx.Client, version: registry.Version) -> None:
    asking = Asking(version, timeout=600)
    run_id = form(server)

    keys = server.get(f"/flow_runs/{run_id}").json()["state"]["state_details"]["run_input_keyset"]
    assert "box F1 rose by 0.1" in server.get(f"/flow_runs/{run_id}/input/{keys['description']}").text
    schema = server.get(f"/flow_runs/{run_id}/input/{keys['schema']}").json()
    assert schema["properties"]["decision"]["enum"] == ["promote", "hold"]

    answer(server, decision="hold")
    asking.end()


def test_no_answer_in_time_means_hold_and_the_next_run_asks_again(
    server: httpx.Client, version: registry.Version
) -> None:
    asking = Asking(version, timeout=1)

    promoted, reason = asking.end()

    assert not promoted
    assert "nobody answered" in reason
    assert state(server, asking.run_id) == "Completed"
    assert registry.tags_of(version)["approval"] == "no answer"
    again = Asking(version, timeout=600)
    answer(server, decision="promote")
    assert again.end()[0] is True


def test_the_form_of_a_killed_run_is_closed_by_the_next(server: httpx.Client, version: registry.Version) -> None:
    left = server.post("/flows/", json={"name": "approve"}).json()["id"]
    asked = {"flow_id": left, "name": "approve-storyteller-1", "state": {"type": "PAUSED", "name": "Paused"}}
    stale = server.post("/flow_runs/", json=asked).json()["id"]

    asking = Asking(version, timeout=600)
    wait_for(lambda: state(server, stale) == "Cancelled", "the form that nobody waits for to be closed")
    answer(server, decision="hold")
    assert asking.end()[0] is False
