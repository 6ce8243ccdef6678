"""An engine that somebody else runs, on Kubernetes or another host: the gateway stands before it, and only asks it.

It serves the model under two names, `storyteller`, by which requests name it, and `storyteller-7`, which says which version
it is: `vllm serve ... --generation-config vllm --served-model-name storyteller storyteller-7`.
"""

import threading
import time

from storyreason.errors import EngineError
from storyreason.generation import openai
from storyreason.generation.config import EngineConfig, GenerationConfig
from storyreason.generation.vllm import NAME, grey_picture

ASK_EVERY = 2.0
"""Seconds between two questions whether it still serves the version."""
MISSED = 2
"""So many unanswered questions, one after the other, and it counts as down."""


class ExternalEngine:
    """Used like `VllmServer`, but `start` waits for the engine and `stop` leaves it running.

    `version` is the name that says which version it serves; None for a model that is not registered.
    """

    def __init__(self, config: EngineConfig, version: str | None) -> None:
        self.url = config.external
        self.name = NAME
        self._config = config
        self._version = version
        self._missed = MISSED
        self._ending = threading.Event()

    def start(self) -> None:
        """Wait until it has answered a real request. Raises EngineError after `startup_timeout` seconds."""
        deadline = time.monotonic() + self._config.startup_timeout
        while (wrong := self._wrong()) is not None:
            if time.monotonic() > deadline or self._ending.wait(0.5):
                raise EngineError(wrong)
        self._ask()
        self._missed = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def alive(self) -> bool:
        """Whether it served this version when it was asked last."""
        return self._missed < MISSED

    def look(self) -> None:
        """Have it answer a real request now: one that ends may still list its models. It counts as down at once if it cannot."""
        try:
            if self._wrong() is None:
                self._ask()
                return
        except EngineError:
            pass
        self.away()

    def away(self) -> None:
        """Note that it did not take a request. It counts as down until it answers a real one again."""
        self._missed = MISSED

    def stop(self) -> None:
        """Ask it no more."""
        self._ending.set()
        self._missed = MISSED

    def _ask(self) -> None:
        openai.tell(self.url, self.name, [grey_picture()], GenerationConfig(max_tokens=1, timeout=60))

    def _watch(self) -> None:
        while not self._ending.wait(ASK_EVERY):
            if self._missed == MISSED:  # a new one of this class waits for it now
                return
            missed = self._missed + 1 if self._wrong() else 0
            if not self._ending.is_set() and self._missed != MISSED:
                self._missed = missed

    def _wrong(self) -> str | None:
        """Why it cannot be used now, and what to do; None if it can."""
        try:
            listed = openai.models(self.url)
        except EngineError as error:
            return f"The engine at {self.url} (serving.external) does not list its models: {error}"
        wanted = [name for name in (self.name, self._version) if name is not None]
        if missing := [name for name in wanted if name not in listed]:
            return (
                f"The engine at {self.url} serves {', '.join(listed) or 'nothing'}, not {' and '.join(missing)}: have it serve "
                f"this version with --served-model-name {' '.join(wanted)}, or set serving.roll to the command that does."
            )
        return None
