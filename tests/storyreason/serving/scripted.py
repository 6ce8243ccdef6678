"""A real gateway before an engine that is a script, for what a real engine takes too long to do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import Engine
from storyreason.serving.gateway import application
from tests.storyreason.serving.test_gateway import free_port
from tests.storyreason.test_guard import wait_for


class Scripted:
    """Stands in for an engine's process: an address, and whether it lives."""

    name = "storyteller"

    def __init__(self, url: str) -> None:
        self.url = url
        self.lives = True

    def alive(self) -> bool:
        return self.lives


@contextmanager
def gateway(url: str, folder: Path, **settings: Any) -> Iterator[tuple[str, Any]]:
    """The address of a gateway before the engine at `url`, and its engines; what it writes lies in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORYREASON_RUNS", str(folder))
        app, _ = application(ServingConfig(**{"wait_timeout": 5, **settings}))
    app.state.engines._engine = Engine(Scripted(url))  # type: ignore[arg-type]
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, 60)
        yield f"http://127.0.0.1:{port}", app.state.engines
    finally:
        server.should_exit = True
        thread.join()
