"""Failures of a step: the sentence that people read, and whether the step is retried."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.logging.loggers import flow_run_logger

from storyreason import runs
from storyreason.errors import EngineError, RegistryError, RunError, StoryReasonError

GO_ON = "Start it again: complete steps are not repeated, and training resumes from its newest checkpoint."
MOST = 300
"""How many characters of another library's message a sentence quotes."""


@contextmanager
def plainly() -> Iterator[None]:
    """Turn what MLflow raises, and a full disk, into one sentence that says what to do.

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
        if (told := _of_mlflow(error, chain)) is not None:
            raise told from told.__cause__ or error
        raise


def _of_mlflow(error: Exception, chain: list[BaseException]) -> RegistryError | None:
    """The sentence for an exception of MLflow's client, or of what it asks with; None for any other.

    Its cause is one that `from_outside` recognizes where trying again may help.
    """
    if "mlflow" not in sys.modules:
        return None
    import mlflow
    from google.protobuf.json_format import ParseError
    from mlflow.exceptions import MlflowException
    from requests.exceptions import ConnectionError as UnreachableError
    from requests.exceptions import RequestException, Timeout
    from sqlalchemy.exc import SQLAlchemyError

    if not isinstance(error, MlflowException | ParseError | SQLAlchemyError):
        return None
    place, reason = mlflow.get_tracking_uri(), one_line(error)[:MOST]
    broken = next((one for one in chain if isinstance(one, RequestException)), None)
    if "out-of-date database schema" in str(error):
        told = "MLflow's database was made by an older version: `storyreason up` migrates it, and keeps a copy."
    elif isinstance(broken, UnreachableError | Timeout):
        told = f"MLflow's server at {place} does not answer: start it (with `storyreason up`, if it is this checkout's). {GO_ON}"
    elif isinstance(error, SQLAlchemyError):
        reason = one_line(getattr(error, "orig", None) or error)[:MOST]
        told = f"MLflow's database {place} cannot be used ({reason}): mend it, or put back a copy from runs/backups. {GO_ON}"
    else:
        told = f"MLflow's server at {place} gives no answer that can be used ({reason}): look at its log, and whether it is one."
    found = RegistryError(told)
    status = error.get_http_status_code() if isinstance(error, MlflowException) else 0  # type: ignore[no-untyped-call]
    again = status in (429, 500, 502, 503, 504) or isinstance(error, SQLAlchemyError)
    found.__cause__ = broken or (ConnectionError(reason) if again else None)
    return found


def say_how_to_go_on(flow: Any, flow_run: Any, state: Any) -> None:
    """Flow hook: log what to do when the process of a run is gone, because Prefect only says what happened."""
    flow_run_logger(flow_run, flow).error("The process of this run is gone. %s", GO_ON)


def cancel_steps(flow: Any, flow_run: Any, state: Any) -> None:
    """Flow hook: the steps of a cancelled run are cancelled, too; Prefect calls them crashed, as their process was ended."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.states import Cancelled

    ours = FlowRunFilter.model_validate({"id": {"any_": [flow_run.id]}})
    unfinished = TaskRunFilter.model_validate(
        {"state": {"type": {"any_": ["PENDING", "RUNNING", "CRASHED"]}, "name": None}}
    )
    with get_client(sync_client=True) as client:
        for one in client.read_task_runs(flow_run_filter=ours, task_run_filter=unfinished):
            client.set_task_run_state(one.id, Cancelled(message="Its run was cancelled."), force=True)


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
