"""When to stop: on SIGTERM, and when the process that asked for the training is gone."""

import os
import signal
import sys
import threading
from types import FrameType

DEADLINE = 13.0
"""Seconds from the first request to stop until the process ends, with or without a checkpoint. Its follower waits 15."""
PARENT = "STORYREASON_PARENT"
"""Environment: process id and start time of the process that follows this training, as `process_token` gives them."""


def process_token(pid: int) -> str:
    """A name for a process that a later process with the same number does not share."""
    import psutil

    return f"{pid}:{psutil.Process(pid).create_time():.2f}"


def alive(token: str) -> bool:
    """Whether the process of a token still runs. A zombie does not count."""
    import psutil

    try:
        process = psutil.Process(int(token.partition(":")[0]))
        return process_token(process.pid) == token and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Watch:
    """Notices a request to stop (`wanted`), and ends the process when stopping takes too long."""

    def __init__(self) -> None:
        """Call it in the main thread: it handles SIGTERM."""
        self.reason: str | None = None
        self.done = threading.Event()
        self._wanted = threading.Event()
        self._launcher = os.getppid()
        self._parent = os.environ.get(PARENT)
        signal.signal(signal.SIGTERM, self._on_signal)
        threading.Thread(target=self._poll, name="watch", daemon=True).start()

    @property
    def wanted(self) -> bool:
        return self._wanted.is_set()

    def stop(self, reason: str) -> None:
        if not self._wanted.is_set():
            self.reason = reason
            self._wanted.set()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop("SIGTERM")

    def _poll(self) -> None:
        while not self._wanted.wait(0.5):
            if self._parent and not alive(self._parent):  # it may be the launcher
                self.stop("the process that asked for the training is gone")
            elif os.getppid() != self._launcher:
                self.stop("the launcher is gone")
        if not self.done.wait(DEADLINE):
            sys.stderr.write(
                f"No checkpoint within {DEADLINE:.0f} s after {self.reason}: the last complete one stays.\n"
            )
            sys.stderr.flush()
            os._exit(143)
