"""Steps named by their content: what a fingerprint stands for is computed once, in `runs/<step>/<fingerprint>/`."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec

from prefect import Task

from storyreason import runs
from tasks.faults import from_outside, plainly
from tasks.results import RESULTS, Result, from_manifest, to_manifest
from tasks.tracking import recall

P = ParamSpec("P")
USED: ContextVar[Callable[[Path], None]] = ContextVar("used", default=lambda folder: None)
"""Is told the folder of each step that is called, before it is looked for or computed."""


@dataclass(frozen=True)
class Work:
    """One result of a step to compute: the fingerprint that names it, and its folder."""

    step: str
    fingerprint: str

    @property
    def folder(self) -> Path:
        """Created when missing."""
        return runs.work_folder(self.step, self.fingerprint)


def in_its_folder(work: Work, *_: Any, **__: Any) -> AbstractContextManager[None]:
    """The default lock of a step."""
    return runs.lock(work.folder)


class Step(Generic[P, Result]):
    """A function as a Prefect task whose results are named by their content. Made by `step`.

    Called in a flow, it returns an earlier result if that is complete: the manifest and the files it names exist, and MLflow
    has its run and version. Otherwise it computes, in one process at a time, and writes the manifest last.
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

        @functools.wraps(body)  # Prefect formats run names with the parameters
        def run(work: Work, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
            if manifest := recall(work.folder):
                return manifest
            with lock(work, *args, **kwargs):
                # Another flow may have computed it in the meantime.
                return recall(work.folder) or runs.write_manifest(
                    work.folder, **to_manifest(body(work, *args, **kwargs))
                )

        # Prefect pickles what a task returns: a plain dict can be read by later code, an instance of our types might not.
        self._task: Task[..., dict[str, Any]] = Task(
            plainly()(run), name=self.name, retry_condition_fn=from_outside, **options
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """The result, from the cache if it is complete. Only in a flow."""
        work = self._used(*args, **kwargs)
        told = self.task(work)(work, *args, **kwargs)
        # Prefect's copy may name files where a checkout was before it moved: the manifest on disk is the truth.
        return self._result(work, runs.read_manifest(work.folder) or told)

    def compute(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """The result without Prefect: no retries, and no cache except the manifest."""
        work = self._used(*args, **kwargs)
        return self._result(work, self._task.fn(work, *args, **kwargs))

    def work(self, *args: P.args, **kwargs: P.kwargs) -> Work:
        """The work that these arguments describe."""
        return Work(self.name, self._named_by(*args, **kwargs))

    def task(self, work: Work) -> Task[..., dict[str, Any]]:
        """The task with the fingerprint as its cache key. A cache hit counts only while the manifest is complete."""
        return self._task.with_options(
            cache_key_fn=lambda context, parameters: f"{self.name}-{work.fingerprint}",
            persist_result=True,
            refresh_cache=recall(work.folder) is None,
        )

    def _used(self, *args: P.args, **kwargs: P.kwargs) -> Work:
        work = self.work(*args, **kwargs)
        USED.get()(work.folder)
        return work

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
    """Make a function a step. `RESULTS` holds its result type, under the function's name.

    `named_by` computes the fingerprint from the same arguments. `lock` takes the work and the arguments and gives a context
    manager that excludes other writers. Only failures that the input did not cause are retried, `retries` times and `delay`
    seconds apart. `run_name` is Prefect's template for the names of task runs.
    """
    options = {"retries": retries, "retry_delay_seconds": delay, "retry_jitter_factor": 0.5, "task_run_name": run_name}
    return lambda body: Step(body, named_by, lock, **options)
