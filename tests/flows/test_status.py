"""`storyreason status`: one screen of what is here, without starting or creating anything."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest

from flows import report, status
from storyreason import runs
from storyreason.serving import state
from tasks import tracking
from tests.system.conftest import free_port

STORYREASON = Path(sys.executable).with_name("storyreason")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `runs/`, whose ports nothing uses."""
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "MLFLOW_", "STORYREASON_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs/mlflow.db")
    for part in ("PREFECT", "MLFLOW"):
        monkeypatch.setenv(f"STORYREASON_{part}_PORT", str(free_port()))
    return runs.root()


def test_a_new_checkout_has_nothing_and_nothing_is_created(root: Path) -> None:
    found = status.look()

    assert (found.up, found.gateways, found.models, found.last_runs, found.problems) == (False, [], {}, [], [])
    assert found.active is None and found.approvals is None  # only Prefect's server knows
    assert found.data.keys() == {"data.dvc", "tiny-base.dvc"}
    assert not (root / "mlflow.db").exists()


def test_versions_runs_and_disk_fit_one_screen(root: Path) -> None:
    client = mlflow.MlflowClient()
    client.create_registered_model("storyteller")
    for number in range(8):
        run = client.create_run(tracking.experiment(), run_name=f"sample {number}")
        client.set_terminated(run.info.run_id)
    client.create_model_version("storyteller", source=str(root))
    client.set_registered_model_alias("storyteller", "champion", "1")
    state.write_served(state.Served("/models/1", "1", None, "", registered="models:/storyteller/1"))
    work = runs.work_folder("train", "0123456789abcdef")
    (work / "weights").write_bytes(b"x" * 1000)
    os.link(work / "weights", work / "the same")

    found = status.look()

    assert found.models == {"storyteller": {"champion": "1"}}
    assert [run["name"] for run in found.last_runs or ()] == [f"sample {number}" for number in (7, 6, 5, 4, 3)]
    assert found.disk["folders"]["train"] == 1000  # links count once
    shown = list(status.lines(found))
    assert "gateway    -  models:/storyteller/1 is not served: it is not running" in shown
    assert "model      storyteller: champion 1" in shown
    assert len(shown) <= 24


def test_a_store_that_cannot_be_asked_is_a_problem_and_not_the_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    found = status.look()

    assert found.last_runs is None
    assert "does not answer" in " ".join(found.problems)


@pytest.fixture
def somebody() -> Iterator[int]:
    """The port of a server that has nothing to do with us: it answers everything with a page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html>")

        do_POST = do_GET  # noqa: N815 - the name that the server looks up

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_who_else_has_the_ports_is_not_taken_for_ours(
    root: Path, somebody: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("PREFECT", "MLFLOW"):
        monkeypatch.setenv(f"STORYREASON_{part}_PORT", str(somebody))

    found = status.look()
    report.show_pages({"challenger": "a"})

    assert not any(server["answers"] for server in found.servers.values())
    assert (found.active, found.problems) == (None, [])
    assert "MLflow's server is not running" in capsys.readouterr().out


def test_an_address_where_prefect_does_not_answer_is_a_problem_and_not_the_end(
    root: Path, somebody: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{somebody}/api")

    found = status.look()

    assert found.servers["prefect"]["answers"] and found.active is None
    assert "Prefect's server cannot be asked" in " ".join(found.problems)


@pytest.mark.parametrize("content", [b"<<<<<<< HEAD\nouts: a\n", b"", b"\xff", b"outs: []\n", b"outs:\n- path: data\n"])
def test_a_damaged_dvc_file_is_a_problem_and_not_the_end(
    content: bytes, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    for needed in ("deploy/presets", "storyreason", ".dvc"):
        (checkout / needed).mkdir(parents=True)
    (checkout / "storyreason/home.py").touch()
    (checkout / "data.dvc").write_bytes(content)
    (checkout / "tiny-base.dvc").write_text("outs:\n- md5: 0123456789abcdef.dir\n  path: tiny-base\n")
    monkeypatch.setenv("STORYREASON_HOME", str(checkout))

    found = status.look()

    assert found.data == {"tiny-base.dvc": "0123456789abcdef"}
    assert [one for one in found.problems if one.startswith("data.dvc names no version of data")]


def test_json_is_for_programs(root: Path) -> None:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": ""}
    del environment["MLFLOW_TRACKING_URI"]
    done = subprocess.run(
        [STORYREASON, "status", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["runs"] == str(root) and told["servers"]["prefect"]["answers"] is False
