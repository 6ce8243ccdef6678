"""A step is named by its content: how a task is tied to its work folder."""

from pathlib import Path
from typing import Any, TypeVar

from prefect import Task

from storyreason import runs
from storyreason.errors import EngineError, StoryReasonError


def from_outside(task: Any, task_run: Any, state: Any) -> bool:
    """Whether a failed step is worth another try: what network, disk, engine or a lock caused, never what the input caused."""
    import httpx

    try:
        state.result()
    except StoryReasonError as error:
        return isinstance(error, EngineError) or isinstance(error.__cause__, (OSError, TimeoutError, httpx.HTTPError))
    except Exception:
        return True
    return False


T = TypeVar("T", bound=Task[..., Any])


def cached(task: T, fingerprint: str, folder: Path) -> T:
    """The task with the fingerprint as its cache key. A hit counts only if manifest and files are still there."""
    return task.with_options(  # type: ignore[return-value]
        cache_key_fn=lambda context, parameters: f"{task.name}-{fingerprint}",
        persist_result=True,
        refresh_cache=runs.read_manifest(folder) is None,
    )
