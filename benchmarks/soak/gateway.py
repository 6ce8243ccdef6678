"""The gateway as it is, but its engines are addresses of the scripted engine instead of vLLM processes.

    python -m benchmarks.soak.gateway 8400 8001 8002

On SIGUSR2 it returns the memory that it does not use to the system, and writes the file `TRIMMED` to its runs folder: what
the C library keeps for later use varies by a tenth, and hides what leaks.
"""

import ctypes
import gc
import itertools
import signal
import sys
from pathlib import Path

from storyreason import runs
from storyreason.generation.config import EngineConfig
from storyreason.serving import engines, gateway
from storyreason.serving.config import ServingConfig

TRIMMED = "trimmed"
PORTS = itertools.cycle(int(port) for port in sys.argv[2:])


class Scripted:
    """What a `VllmServer` is to the gateway. Each start takes the next port."""

    name = "storyteller"

    def __init__(self, model: Path | str, config: EngineConfig, log: Path) -> None:
        self.model, self.port = model, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.port = next(PORTS)

    def stop(self) -> None:
        self.port = 0

    def alive(self) -> bool:
        return self.port != 0


def trim(*_: object) -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # glibc's
    (runs.root() / TRIMMED).touch()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, trim)
    engines.VllmServer = Scripted  # type: ignore[attr-defined, assignment]
    engines.check_memory = lambda *_: None  # type: ignore[attr-defined]
    gateway.run(ServingConfig(port=int(sys.argv[1]), probe="none", max_body_mb=1))
