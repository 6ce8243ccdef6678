"""A real gateway in front of a scripted engine, for what would take too long with a real one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from storyreason.serving import client, protocol, state
from storyreason.serving import engines as serving_engines
from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import RunningEngine
from storyreason.serving.gateway import application
from tests.storyreason.serving.test_gateway import free_port
from tests.storyreason.test_guard import wait_for


class Scripted:
    """Stands in for an engine's process: an address, and whether it is running."""

    name = "storyteller"

    def __init__(self, url: str) -> None:
        self.url = url
        self.lives = True

    def alive(self) -> bool:
        return self.lives


@contextmanager
def gateway(
    url: str,
    folder: Path,
    head_timeout: float = 20,
    unread_timeout: float = 60,
    most_connections: int | None = None,
    **settings: Any,
) -> Iterator[tuple[str, Any]]:
    """The address of a gateway in front of the engine at `url`, and its engine pool; it writes to `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORYREASON_RUNS", str(folder))
        app, _ = application(ServingConfig(**{"wait_timeout": 5, **settings}))
    app.state.engines._engine = RunningEngine(Scripted(url))  # type: ignore[arg-type]
    port = free_port()
    server = uvicorn.Server(protocol.settings(app, head_timeout, unread_timeout, most_connections, port=port))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, 60)
        yield f"http://127.0.0.1:{port}", app.state.engines
    finally:
        server.should_exit = True
        thread.join()


class Process:
    """Stands in for a vLLM process: whether it is running, and a start that can be delayed."""

    running: "set[Process]"
    may_start: threading.Event
    starting: threading.Event
    starts: int
    name, url = "storyteller", "http://127.0.0.1:9"

    def __init__(self, model: str, config: ServingConfig, log: Path) -> None:
        pass

    def start(self) -> None:
        self.starting.set()
        assert self.may_start.wait(60)
        self.running.add(self)
        Process.starts += 1

    def stop(self) -> None:
        self.running.discard(self)

    def alive(self) -> bool:
        return self in self.running


@contextmanager
def started(config: ServingConfig) -> Iterator[ServingConfig]:
    """A gateway in this process, until the block ends."""
    app, _ = application(config)
    server = uvicorn.Server(protocol.settings(app, port=config.port))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, 60)
        yield config
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServingConfig:
    """A checkout in which version 7 was served last."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setattr(serving_engines, "VllmServer", Process)
    monkeypatch.setattr(Process, "running", set(), raising=False)
    monkeypatch.setattr(Process, "starts", 0, raising=False)
    monkeypatch.setattr(Process, "may_start", threading.Event(), raising=False)
    monkeypatch.setattr(Process, "starting", threading.Event(), raising=False)
    Process.may_start.set()
    state.write_served(state.Served(str(tmp_path / "model"), "7", None, "2026-01-01T00:00:00+00:00"))
    return ServingConfig(port=free_port(), devices="0")


@pytest.fixture
def served(checkout: ServingConfig) -> Iterator[ServingConfig]:
    """A gateway that serves version 7."""
    with started(checkout):
        wait_for(lambda: client.status(checkout).healthy, 60)
        yield checkout


def serves(config: ServingConfig) -> bool:
    return client.status(config).healthy and len(Process.running) == 1
