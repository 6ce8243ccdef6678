"""What is set before Prefect is imported and reads its settings."""

import os
import signal
import subprocess
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from flows import local, schedules
from storyreason import guard, runs
from storyreason.errors import ConfigError, RunError
from tasks import settings

PREPARED = """
import sys
from flows import local
from tasks import settings

local.prepare()
settings.read()
print("prefect" in sys.modules)
"""


def test_preparing_imports_no_prefect() -> None:
    """Else the address of the server of `up` comes too late, and Prefect starts one more on the same database."""
    done = subprocess.run([sys.executable, "-c", PREPARED], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout == "False\n", done.stderr


@pytest.mark.server
def test_prefect_keeps_its_state_in_the_runs_of_this_checkout(tmp_path: Path) -> None:
    """Else a step that is complete in one checkout is taken from the cache in another, with the other's paths."""
    code = """
from tasks import settings
settings.prepare()
from prefect.settings import get_current_settings
now = get_current_settings()
print(now.home, now.results.local_storage_path, now.server.memo_store_path)
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**kept, "STORYREASON_RUNS": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    home = tmp_path / "prefect"
    assert done.stdout.split() == [str(home), str(home / "storage"), str(home / "memo_store.toml")], done.stderr


def test_requests_to_this_machine_never_go_through_a_proxy(tmp_path: Path) -> None:
    code = """
import urllib.request
from tasks import settings
settings.prepare()
import httpx, requests
client = httpx.Client()
for address in ("http://127.0.0.1:4200/api", "http://localhost:4200/api", "http://example.org/"):
    print(
        bool(urllib.request.proxy_bypass(address.split("/")[2])),
        client._transport_for_url(httpx.URL(address)) is client._transport,
        not requests.utils.get_environ_proxies(address),
    )
"""
    environment = {**os.environ, "STORYREASON_RUNS": str(tmp_path), "http_proxy": "http://127.0.0.1:9"}
    environment |= {"no_proxy": "intranet.example"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.splitlines() == ["True True True", "True True True", "False False False"], done.stderr


def test_a_server_that_ends_while_it_starts_is_reported_at_once(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with (
        subprocess.Popen([sys.executable, "-c", "print('no such option')"]) as ended,
        pytest.raises(RunError, match=r"Prefect's server ended before it answered: .*server\.log"),
    ):
        ended.wait()
        local._wait(ended, "http://127.0.0.1:9/health", log)


def test_only_a_flow_that_waits_for_another_is_told_how_to_run_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setattr(guard, "start", lambda command, log: subprocess.Popen(["false"], stdin=subprocess.PIPE))
    with (
        pytest.raises(RunError, match=r"ended before it answered: its last output is in .*server\.log\.$"),
        local._server(),
    ):
        pass

    monkeypatch.setattr(runs, "lock", partial(runs.lock, wait=0.1))
    with (
        runs.lock(tmp_path),
        pytest.raises(RunError, match=r"is being written by .* Or run several flows at a time: start `storyreason up`"),
        local._server(),
    ):
        pass


BEGIN_A_RUN = """
import os, signal
from flows import local
with local.platform():
    from prefect import flow, task
    @task
    def step():
        os.kill(os.getpid(), signal.SIGKILL)
    @flow(name="retrain")
    def retrain():
        step()
    retrain()
"""
STATES = """
from flows import local
with local.platform():
    from prefect.client.orchestration import get_client
    with get_client(sync_client=True) as client:
        for run in [*client.read_flow_runs(), *client.read_task_runs()]:
            print(run.state.name, run.state.message, sep="|")
"""


@pytest.mark.server
def test_the_next_start_marks_the_run_of_a_flow_that_was_killed(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**kept, "STORYREASON_RUNS": str(tmp_path)}

    killed = subprocess.run([sys.executable, "-c", BEGIN_A_RUN], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    done = subprocess.run([sys.executable, "-c", STATES], env=environment, capture_output=True, text=True)

    of_flow, *of_tasks = done.stdout.splitlines()
    assert of_flow.startswith("Crashed|Its process had ended. Start it again"), done.stderr
    assert {one.partition("|")[0] for one in of_tasks} <= {"Crashed"}


def test_ctrl_c_ends_with_a_sentence_that_says_how_to_continue(tmp_path: Path) -> None:
    code = """
import typer
from flows import local
app = typer.Typer()
@app.command()
def retrain() -> None:
    with local.platform():
        raise KeyboardInterrupt
app()
"""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # it answers, if only that it has no such page
        Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        environment = {**os.environ, "STORYREASON_RUNS": str(tmp_path), "PREFECT_API_URL": url}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 130
    assert done.stderr == "storyreason: interrupted. Start it again: complete steps are not repeated.\n"


def test_a_prefect_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "RESTART", 0.5)
    monkeypatch.setenv("PREFECT_API_URL", "http://me:secret@127.0.0.1:9/api")
    with (
        pytest.raises(RunError, match=r"at http://me:\*\*\*@127\.0\.0\.1:9/api does not answer: start it") as caught,
        local._server(),
    ):
        pass
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("cron", ["every monday", "0 4 * * 5L", "0 4 LW * *", "0 4 * *", "61 * * * *", "0 0 30 2 *"])
def test_a_schedule_that_prefect_does_not_run_is_refused(cron: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_CRON", cron)
    with pytest.raises(
        ConfigError, match=r"^STORYREASON_CRON=.*expected the five fields of a cron schedule that Prefect"
    ):
        schedules.check(settings.read())


@pytest.mark.server
def test_up_refuses_a_schedule_before_anything_starts(tmp_path: Path) -> None:
    environment = {**os.environ, "STORYREASON_RUNS": str(tmp_path), "STORYREASON_CRON": "0 4 * * 5L"}
    command = [sys.executable, "-c", "from storyreason.cli import main; main()", "up"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "STORYREASON_CRON=0 4 * * 5L: expected" in done.stderr
    assert not (tmp_path / "up").exists()


@pytest.mark.parametrize("cron", ["0 4 * * 1", "@weekly", "*/5 8-17 * * mon-fri", "0 4 * * 1#5", "0 4 29 2 *"])
def test_a_schedule_that_prefect_runs_is_taken(cron: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_CRON", cron)
    monkeypatch.setenv("STORYREASON_CLEAN", cron)
    schedules.check(settings.read())


def test_a_question_mark_in_the_path_of_runs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's address would end there, and MLflow's database would be another file."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "what now?" / "runs"))
    with pytest.raises(RunError, match=r"cannot keep their databases in .*what now\?.*set STORYREASON_RUNS"):
        settings.prepare()
    assert list(tmp_path.iterdir()) == []
