"""A fresh clone of the project to run the line in, and one Prefect server for all runs of the session."""

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

import httpx
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
STORYREASON = str(Path(sys.executable).with_name("storyreason"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], what: str, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.05)


class Patient(httpx.HTTPTransport):
    """Asks again where a server says that it is busy (503): Prefect's does while SQLite is locked, and its clients ask again."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = time.monotonic() + 300
        while (answer := super().handle_request(request)).status_code == 503 and time.monotonic() < deadline:
            answer.close()
            time.sleep(0.5)
        return answer


def prefect_api(url: str) -> httpx.Client:
    """A client of a Prefect server's API, as its UI is one."""
    return httpx.Client(base_url=url, timeout=120, trust_env=False, transport=Patient())


@dataclass
class Project:
    """A clone, and `storyreason` called in it as a person would, in a process of its own."""

    folder: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)

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
            [STORYREASON, *arguments], cwd=self.folder, env=self.environment, text=True, timeout=1200,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [STORYREASON, *arguments], cwd=self.folder, env=self.environment, text=True,
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
    """One clone for the tests of a module, which tell one story after the other in it."""
    project = clone(tmp_path_factory.mktemp("clone") / "project", prefect_server)
    yield project
    project.run("down")
    wait_for(lambda: not project.processes(""), f"the end of {project.processes('')}", 60)
