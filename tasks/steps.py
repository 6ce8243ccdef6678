"""A step is named by its content: it computes once what its fingerprint stands for, in `runs/<step>/<fingerprint>/`."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec

from prefect import Task

from storyreason import runs
from tasks.faults import from_outside, plainly
from tasks.results import RESULTS, Result, from_manifest, to_manifest
from tasks.tracking import recall

P = ParamSpec("P")


@dataclass(frozen=True)
class Work:
    """One piece of work of a step: the fingerprint that names it, and its folder."""

    step: str
    fingerprint: str

    @property
    def folder(self) -> Path:
        """Made when missing."""
        return runs.work_folder(self.step, self.fingerprint)


def in_its_folder(work: Work, *_: Any, **__: Any) -> AbstractContextManager[None]:
    """The lock of a step unless it says otherwise."""
    return runs.lock(work.folder)


class Step(Generic[P, Result]):
    """A function from its arguments to a result type, as a Prefect task that is named by its content. Made by `step`.

    Called in a flow it gives what an earlier run has computed when that is complete: its manifest is there with the files that
    it names, and MLflow has the run and the version. Else it computes, one process at a time, and writes the manifest last.
    """

    def __init__(
        self,
        body: Callable[Concatenate[Work, P], Result],
        named_by: Callable[P, str],
        lock: Callable[..., AbstractContextManager[None]],
        **options: Any,
    ) -> None:
        self.name = body.__name__
        self._named_by, self._kind = named_by, RESULTS[self.name]

        @functools.wraps(body)  # Prefect names task runs by the parameters
        def run(work: Work, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
            if manifest := recall(work.folder):
                return manifest
            with lock(work, *args, **kwargs):
                # Another flow may have computed just this until now.
                return recall(work.folder) or runs.write_manifest(
                    work.folder, **to_manifest(body(work, *args, **kwargs))
                )

        # Prefect keeps what a task returns: a manifest outlives the code that wrote it, an object of ours would not.
        self._task: Task[..., dict[str, Any]] = Task(
            plainly()(run), name=self.name, retry_condition_fn=from_outside, **options
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """The result, from the cache where it is complete. Only in a flow."""
        work = self.work(*args, **kwargs)
        return self._result(work, self.task(work)(work, *args, **kwargs))

    def compute(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """As a call, without Prefect: no retries, no cache but the manifest."""
        work = self.work(*args, **kwargs)
        return self._result(work, self._task.fn(work, *args, **kwargs))

    def work(self, *args: P.args, **kwargs: P.kwargs) -> Work:
        """What these arguments ask for."""
        return Work(self.name, self._named_by(*args, **kwargs))

    def task(self, work: Work) -> Task[..., dict[str, Any]]:
        """The task with the fingerprint as its cache key. A hit counts only if the manifest still does."""
        return self._task.with_options(
            cache_key_fn=lambda context, parameters: f"{self.name}-{work.fingerprint}",
            persist_result=True,
            refresh_cache=recall(work.folder) is None,
        )

    def _result(self, work: Work, manifest: dict[str, Any]) -> Result:
        return from_manifest(self._kind, manifest, str(work.folder))


def step(
    named_by: Callable[P, str],
    *,
    lock: Callable[..., AbstractContextManager[None]] = in_its_folder,
    retries: int = 0,
    delay: float = 5.0,
    run_name: str | None = None,
) -> Callable[[Callable[Concatenate[Work, P], Result]], Step[P, Result]]:
    """Make a function a step: `named_by` gives its fingerprint from the same arguments, and `RESULTS` has its result type.

    `lock` gives the right to write, from the work and the arguments; `retries` count faults from outside alone, `delay`
    seconds apart; `run_name` is Prefect's template for the names of task runs.
    """
    options = {"retries": retries, "retry_delay_seconds": delay, "retry_jitter_factor": 0.5, "task_run_name": run_name}
    return lambda body: Step(body, named_by, lock, **options)
