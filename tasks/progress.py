"""Progress of a long step, where people look for it: the terminal, the log, and Prefect's progress artifact."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

EVERY = 15.0
"""Seconds between two lines in the log."""


class Progress:
    """Tell how far a step is; at most one line every 15 s, however often it is told."""

    def __init__(self, key: str, description: str) -> None:
        self._artifact = cast(UUID, create_progress_artifact(0.0, key=key, description=description))
        self._logger = get_run_logger()
        self._told = 0.0

    def tell(self, done: int, total: int, line: str) -> None:
        """`done` of `total`, and a sentence for the person who watches."""
        now = time.monotonic()
        if now - self._told < EVERY and done < total:
            return
        self._told = now
        self._logger.info("%s", line)
        update_progress_artifact(self._artifact, progress=min(100.0, 100.0 * done / max(total, 1)), description=line)


@contextmanager
def stopwatch(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Note how long a step took, failed or not."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[step] = round(time.monotonic() - start, 1)
