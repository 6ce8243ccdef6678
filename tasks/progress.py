"""Progress of a long step in the terminal, the log, and Prefect's progress artifact."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

EVERY = 15.0
"""Seconds between two lines in the log."""


class Progress:
    """Reports how far a step is, with at most one line every 15 s, however often it is called, unless it must be said."""

    def __init__(self, key: str, description: str) -> None:
        self._key, self._description = key, description
        self._artifact: UUID | None = None
        self._logger = get_run_logger()
        self._reported = 0.0
        self._show(0.0, description)

    def report(self, done: int, total: int, line: str, at_once: bool = False) -> None:
        """Report `done` of `total`, and a sentence for whoever watches; `at_once` even if another was reported just before."""
        now = time.monotonic()
        if now - self._reported < EVERY and done < total and not at_once:
            return
        self._reported = now
        self._logger.info("%s", line)
        self._show(min(100.0, 100.0 * done / max(total, 1)), line)

    def _show(self, percent: float, line: str) -> None:
        try:
            if self._artifact is None:
                made = create_progress_artifact(percent, key=self._key, description=self._description)
                self._artifact = cast(UUID, made)
            update_progress_artifact(self._artifact, progress=percent, description=line)
        except httpx.HTTPError as error:  # a restart of Prefect's server must not end a training
            self._logger.warning("Prefect's server cannot show the progress: %s", error or type(error).__name__)


@contextmanager
def stopwatch(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Record how long a step took, even if it failed."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[step] = round(time.monotonic() - start, 1)
