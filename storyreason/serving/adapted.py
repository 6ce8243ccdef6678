"""An adapter that serves from a process with its base, in which another one can take over without a second process."""

import contextlib
import re
from dataclasses import dataclass, field

from storyreason import adapters
from storyreason.adapters import WEIGHTS, Adapter
from storyreason.errors import EngineError
from storyreason.generation import lora
from storyreason.generation.vllm import NAME, VllmServer
from storyreason.serving.state import Served

NOT_OF_THE_PROCESS = {"probe", "startup_timeout", "stop_timeout"}
"""Settings of an engine that may differ between two adapters in it."""


@dataclass
class Process:
    """A vLLM process, and what is known of the adapters in it."""

    server: VllmServer
    rank: int
    """The largest that it has room for."""
    loaded: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """The folder of each adapter that it ever had, with size and time of its weights, by the adapter's name."""
    serving: set[str] = field(default_factory=set)


class AdapterServer:
    """Used like `VllmServer`. Two of them may share a process, which ends with the last one.

    Each has a name of its own in the process: vLLM keeps adapters, and what it has cached of them, apart by their names.
    """

    def __init__(self, process: Process, adapter: Adapter, name: str) -> None:
        self.process = process
        self.adapter = adapter
        self.name = name

    @property
    def url(self) -> str:
        return self.process.server.url

    def beside(self, adapter: Adapter, name: str) -> "AdapterServer | None":
        """Another adapter in the same process; None if it must have a process of its own.

        That is one over another base, with a larger rank than there is room for, or from a folder that has changed since the
        process read it: vLLM's cache would mix what the folder held then and now. Raises EngineError for an adapter that vLLM
        does not take.
        """
        fits = adapter.identity == self.adapter.identity and lora.room(adapter) <= self.process.rank and self.alive()
        content = _content(adapter)
        if not fits or any(known[0] == content[0] and known != content for known in self.process.loaded.values()):
            return None
        while name in self.process.loaded:
            name += "+"
        return AdapterServer(self.process, adapter, name)

    def start(self) -> None:
        """Start the process, or load the adapter into the one that runs. Raises EngineError."""
        if self.process.server.alive():
            lora.load(self.url, self.name, self.adapter)
        else:
            self.process.server.start()
        self.process.loaded[self.name] = _content(self.adapter)
        self.process.serving.add(self.name)

    def alive(self) -> bool:
        return self.process.server.alive()

    def stop(self) -> None:
        """Take the adapter out of the process, or end the process with its last one. May be called twice."""
        self.process.serving.discard(self.name)
        if not self.process.serving:
            self.process.server.stop()
        elif self.alive():
            with contextlib.suppress(EngineError):  # it may be ending
                lora.unload(self.url, self.name)


def beside(serving: object, before: Served | None, after: Served) -> AdapterServer | None:
    """A version's server in the process that serves another one now, if both are adapters over one base; None: it needs its own.

    Raises ModelError for an adapter whose base is gone.
    """
    adapter = adapters.of(after.folder)
    if before is None or adapter is None or not isinstance(serving, AdapterServer):
        return None
    old, new = (
        {name: value for name, value in one.engine.items() if name not in NOT_OF_THE_PROCESS} for one in (before, after)
    )
    return serving.beside(adapter, named(after.version)) if old == new else None


def named(version: str) -> str:
    """What an engine calls the adapter of a version: `storyteller-7`."""
    return f"{NAME}-{safe(version)}"


def safe(version: str) -> str:
    """A version in the name of a file or an adapter."""
    return re.sub(r"[^\w.-]", "_", version)


def _content(adapter: Adapter) -> tuple[str, int, int]:
    weights = (adapter.folder / WEIGHTS).stat()
    return str(adapter.folder), weights.st_size, weights.st_mtime_ns
