"""Flows on one machine, with nothing to start beforehand: a flow starts its own Prefect server and stops it when it ends."""

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flows import changes, up
from storyreason import guard, runs
from storyreason.errors import RunError, without_password
from tasks import settings, upgrading

STARTUP = 180.0
"""Seconds that a Prefect server may take to answer: 20 on an idle machine, far more on a busy one."""


def prepare() -> None:
    """Set where state is kept, and use the Prefect server of `storyreason up` if it runs."""
    settings.prepare()
    if up.running() is not None:
        chosen = settings.read()
        if changed := up.changed_settings(chosen):
            if "STORYREASON_PREFECT_PORT" in changed:  # its server would not be found
                raise RunError(changes.sentence(changed))
            sys.stderr.write(f"storyreason: {changes.sentence(changed)}\n")
        os.environ.setdefault("PREFECT_API_URL", f"{chosen.prefect_url}/api")
    else:
        upgrading.migrate(lambda said: print(f"storyreason: {said}", file=sys.stderr))  # noqa: T201


@contextmanager
def platform() -> Iterator[None]:
    """Make Prefect, MLflow and DVC ready for a flow. A Prefect server in PREFECT_API_URL, or of `storyreason up`, is used.

    Enter it before Prefect is imported: Prefect then sends its last messages before its server stops.
    """
    prepare()
    try:
        with _server():
            yield
    except KeyboardInterrupt:
        sys.stderr.write("storyreason: interrupted. Start it again: complete steps are not repeated.\n")
        raise


RESTART = 20.0
"""Seconds that a server which is being restarted may take."""


@contextmanager
def _server() -> Iterator[None]:
    if url := os.environ.get("PREFECT_API_URL"):
        _await_server(url)
        yield
        return
    home = Path(os.environ["PREFECT_HOME"])
    with ExitStack() as held:
        try:
            held.enter_context(runs.lock(home))
        except RunError as error:
            raise RunError(
                f"{error} Or run several flows at a time: start `storyreason up` first, or set PREFECT_API_URL to a server's "
                "address."
            ) from None
        os.environ["PREFECT_API_URL"] = _start_server(home)
        _close_runs_of_the_killed()
        yield


def _await_server(url: str) -> None:
    """Raise RunError if nothing answers at the API's address, not even after a restart."""
    deadline = time.monotonic() + RESTART
    while not settings.answers(f"{url}/health"):
        if time.monotonic() > deadline:
            raise RunError(
                f"Prefect's server at {without_password(url)} does not answer: start it (with `storyreason up`, if it is this "
                "checkout's), or unset PREFECT_API_URL, and the flow starts its own."
            )
        time.sleep(0.2)


def _start_server(home: Path) -> str:
    """Start a Prefect server on a free loopback port that ends with this process (even by kill -9); gives its API's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    begin = [sys.executable, "-m", "flows.server", "prefect", "server", "start"]
    command = [*begin, "--host", "127.0.0.1", "--port", str(port)]
    log = home / "server.log"
    process = guard.start(command, log)
    atexit.register(_stop, process)
    _wait(process, f"{url}/health", log)
    return url


def _close_runs_of_the_killed() -> None:
    """Mark the runs that still count as running in a database that no process has used since: theirs were killed.

    Runs of a deployment are left to the next `storyreason up`, which resumes them.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Cancelled, Crashed

    from tasks.faults import GO_ON

    begun = {"state": {"type": {"any_": [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]}, "name": None}}
    waiting = {"state": {"type": {"any_": [StateType.PAUSED]}}}
    alone = {"deployment_id": {"is_null_": True}}
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(begun | alone)):
            its_tasks = client.read_task_runs(
                flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run.id]}}),
                task_run_filter=TaskRunFilter.model_validate(begun),
            )
            for task in its_tasks:
                client.set_task_run_state(task.id, Crashed(message="Its process had ended."), force=True)
            client.set_flow_run_state(run.id, Crashed(message=f"Its process had ended. {GO_ON}"), force=True)
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(waiting | alone)):
            client.set_flow_run_state(run.id, Cancelled(message="The run that asked has ended."), force=True)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.wait(timeout=30)


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + STARTUP
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    if process.poll() is not None:
        raise RunError(f"Prefect's server ended before it answered: its last output is in {log}.")
    raise RunError(f"Prefect's server did not answer within {STARTUP:.0f} s: its last output is in {log}.")
