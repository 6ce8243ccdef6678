"""A fresh clone of the project to run the pipeline in, and one Prefect server for all runs of the session."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flows import deployments
from tests.storyreason.page.conftest import browser  # noqa: F401 (fixture)
from tests.storyreason.serving.scripted import checkout, served  # noqa: F401 (fixtures)
from tests.tiny import tiny_base, tiny_bases, tiny_data, tiny_examples  # noqa: F401 (fixtures)

REPOSITORY = Path(__file__).resolve().parents[2]
STORYREASON = str(Path(sys.executable).with_name("storyreason"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], what: str, seconds: float = 400) -> None:
    """Ask again and again; a question to a server costs it as much as us, so asking takes a tenth of the time at most."""
    began = asked = time.monotonic()
    while not condition():
        answered = time.monotonic()
        assert answered < began + seconds, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(min(1.0, max(0.05, 9 * (answered - asked))))
        asked = time.monotonic()


class Patient(httpx.HTTPTransport):
    """Retries while a server is busy (503), as Prefect's clients do: its server answers so while SQLite is locked."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = time.monotonic() + 300
        while (answer := super().handle_request(request)).status_code == 503 and time.monotonic() < deadline:
            answer.close()
            time.sleep(0.5)
        return answer


def prefect_api(url: str) -> httpx.Client:
    """A client of a Prefect server's API, like its UI."""
    return httpx.Client(base_url=url, timeout=120, trust_env=False, transport=Patient())


@dataclass
class Project:
    """A clone, and `storyreason` called in it as a user would, in a separate process."""

    folder: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    program: str = STORYREASON

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def retrain(self, *arguments: str, preset: str = "smoke") -> list[str]:
        return ["retrain", preset, "--set", f"serving.port={self.port}", *arguments]

    def run(self, *arguments: str, code: int = 0) -> str:
        """What the command printed; it must end with this exit code."""
        done = subprocess.run(
            [self.program, *arguments], cwd=self.folder, env=self.environment, text=True, timeout=1200,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [self.program, *arguments], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            # Ctrl-C must reach it, also where the tests run in the background of a shell, which ignores it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def kill_when(self, condition: Callable[[], object], what: str, *arguments: str) -> None:
        """kill -9 of the flow's process as soon as the condition holds."""
        process = self.start(*arguments)
        try:
            wait_for(lambda: condition() or process.poll() is not None, what)
            assert process.poll() is None, f"ended before {what}: {process.stdout.read() if process.stdout else ''}"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def processes(self, part: str) -> list[str]:
        """Command lines of running processes that were started in this clone and contain `part`."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "cwd").readlink() == self.folder:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if part in line:
                        found.append(line)
        return found


def clone(folder: Path, environment: dict[str, str]) -> Project:
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(folder)], check=True)
    return Project(folder, {**environment, "STORYREASON_RUNS": str(folder / "runs")})


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a process that is to use the session's Prefect server."""
    home = tmp_path_factory.mktemp("prefect")
    code = (
        "import os, sys; from flows import local\n"
        "with local.platform(): print(os.environ['PREFECT_API_URL'], flush=True); sys.stdin.read()"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    server = subprocess.Popen(
        [sys.executable, "-c", code], cwd=home, env={**kept, "STORYREASON_RUNS": str(home)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None and server.stdin is not None
    url = server.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1")
    yield {**kept, "PREFECT_API_URL": url}
    server.stdin.close()
    server.stdout.close()
    assert server.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def project(prefect_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One clone for the tests of a module, which depend on one another's results."""
    project = clone(tmp_path_factory.mktemp("clone") / "project", prefect_server)
    yield project
    project.run("down")
    wait_for(lambda: not project.processes(""), f"the end of {project.processes('')}", 60)


class Platform:
    """A checkout's platform as people and Prefect's UI use it: the command line and the server's API."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.client = prefect_api(f"{self.url('PREFECT')}/api")

    def url(self, part: str) -> str:
        return f"http://127.0.0.1:{self.project.environment[f'STORYREASON_{part}_PORT']}"

    def ask(self, method: str, path: str, body: Any = None, code: int = 200) -> Any:
        answer = self.client.request(method, path, json=body)
        assert answer.status_code == code, answer.text
        return answer.json() if answer.content else None

    def deployment(self, flow: str) -> Any:
        name = deployments.retraining("smoke") if flow == "retrain" else f"{flow}-version"
        return self.ask("GET", f"/deployments/name/{flow}/{name}")

    def start(self, parameters: dict[str, Any], code: int = 201, flow: str = "retrain", name: str | None = None) -> Any:
        """What the form of Prefect's UI sends."""
        body = {"state": {"type": "SCHEDULED"}, "parameters": parameters} | ({"name": name} if name else {})
        return self.ask("POST", f"/deployments/{self.deployment(flow)['id']}/create_flow_run", body, code)

    def runs(self, flow: str = "retrain") -> list[Any]:
        found: list[Any] = self.ask(
            "POST", "/flow_runs/filter", {"deployments": {"id": {"any_": [self.deployment(flow)["id"]]}}}
        )
        return [run for run in found if run["state_name"] != "Scheduled" or not run["auto_scheduled"]]

    def run(self, identity: str) -> Any:
        return self.ask("GET", f"/flow_runs/{identity}")

    def wait_until_complete(self, identity: str) -> Any:
        wait_for(lambda: self.run(identity)["state_type"] in ("COMPLETED", "FAILED", "CRASHED"), "the run's end", 900)
        run = self.run(identity)
        assert run["state_type"] == "COMPLETED", run["state"]
        return run

    def served(self) -> Any:
        """What the gateway says of itself."""
        return httpx.get(f"{self.url('GATEWAY')}/healthz", timeout=120, trust_env=False).json()

    def processes(self) -> dict[psutil.Process, list[str]]:
        """The processes that came of `up` in this checkout, with the words of their command lines."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # ended while it is asked
                ours = process.environ().get("STORYREASON_UP") == str(self.project.runs / "up") or (
                    "VLLM" in process.name() and Path(process.cwd()).is_relative_to(self.project.folder)
                )  # which names itself over its environment
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found[process] = process.cmdline()
        return found

    def marked(self) -> list[str]:
        """Command lines of the processes that came of `up` in this checkout."""
        return [" ".join(words) for words in self.processes().values()]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    # Not as patient as for people: how often waiting runs look again, and how often new ones are looked for.
    kept |= {"PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5", "PREFECT_RUNNER_POLL_FREQUENCY": "2"}
    ports = {f"STORYREASON_{part}_PORT": str(free_port()) for part in ("PREFECT", "MLFLOW", "GATEWAY")}
    project = clone(
        tmp_path_factory.mktemp("up") / "project",
        {**kept, **ports, "STORYREASON_PRESET": "smoke", "OMP_NUM_THREADS": "1"},
    )
    platform = Platform(project)
    yield platform
    platform.client.close()
    project.run("down")
    assert platform.marked() == []
