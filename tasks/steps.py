"""A step is named by its content: how a task is tied to its work folder."""

from pathlib import Path
from typing import Any, TypeVar

from prefect import Task

from storyreason import runs

T = TypeVar("T", bound=Task[..., Any])


def cached(task: T, fingerprint: str, folder: Path) -> T:
    """The task with the fingerprint as its cache key. A hit counts only if manifest and files are still there."""
    return task.with_options(  # type: ignore[return-value]
        cache_key_fn=lambda context, parameters: f"{task.name}-{fingerprint}",
        persist_result=True,
        refresh_cache=runs.read_manifest(folder) is None,
    )
