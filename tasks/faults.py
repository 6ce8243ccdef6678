"""Failures of a step: the sentence that people read, and whether the step is retried."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.logging.loggers import flow_run_logger

from storyreason import runs
from storyreason.errors import EngineError, RegistryError, RunError, StoryReasonError

GO_ON = "Start it again: complete steps are not repeated, and training resumes from its newest checkpoint."


@contextmanager
def plainly() -> Iterator[None]:
    """Turn an unreachable MLflow and a full disk into one sentence that says what to do.

    It also decorates tasks and flows, below Prefect's decorator: `@plainly()`.
    """
    try:
        yield
    except StoryReasonError:
        raise
    except Exception as error:
        chain = list(runs.causes(error))
        if (disk := runs.disk_fault(error)) is not None:
            place = next((str(one.filename) for one in chain if isinstance(one, OSError) and one.filename), "")
            way = "make room, for example with `storyreason clean --keep 1`" if "full" in disk else "check it"
            raise RunError(f"{disk}{f' (writing {place})' if place else ''}: {way}. {GO_ON}") from error
        import mlflow
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        broken = next((one for one in chain if isinstance(one, RequestException)), None)
        if isinstance(error, MlflowException) and "out-of-date database schema" in str(error):
            raise RegistryError(
                "MLflow's database was made by an older version: `storyreason up` migrates it, and keeps a copy."
            ) from error
        if isinstance(error, MlflowException) and broken is not None:
            raise RegistryError(
                f"MLflow's server at {mlflow.get_tracking_uri()} does not answer: start it (with `storyreason up`, if it is "
                f"this checkout's). {GO_ON}"
            ) from broken  # a cause that `from_outside` recognizes
        raise


def say_how_to_go_on(flow: Any, flow_run: Any, state: Any) -> None:
    """Flow hook: log what to do when the process of a run is gone, because Prefect only says what happened."""
    flow_run_logger(flow_run, flow).error("The process of this run is gone. %s", GO_ON)


def from_outside(task: Any, task_run: Any, state: Any) -> bool:
    """Whether to retry a failed step: yes when network, disk, engine or a lock failed it, never when its input did."""
    import httpx

    try:
        state.result()
    except StoryReasonError as error:
        return isinstance(error, EngineError) or isinstance(error.__cause__, (OSError, TimeoutError, httpx.HTTPError))
    except Exception:
        return True
    return False


def one_line(error: BaseException) -> str:
    """What an error says, without its line breaks; its type's name when it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
