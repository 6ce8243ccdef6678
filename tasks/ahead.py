"""Films that workers of Ray look at ahead of the flow, which then finds their steps complete.

A worker computes the steps `extract` and `detect` under the same fingerprints into the same `runs/`, and keeps its models
loaded from film to film: what comes of a film is what the flow itself would have made of it. Without `$RAY_ADDRESS` the
workers are processes of this machine, and end with the flow; on other machines they need the same folders.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from storyreason import runs
from storyreason.config import RunConfig
from storyreason.errors import ConfigError, DataError, RunError
from tasks import filming
from tasks.filming import Reel

LIVES = 3
"""How often a film is tried whose worker died."""
STARTS = 3
"""How often Ray is started: it gives up when its own helpers take more than 15 s to start, as on a busy machine."""


class Worker:
    """Looks at films in a process of Ray. `folder` and `place` are the current folder and the `runs/` of the flow."""

    def __init__(self, config: RunConfig, folder: str, place: str) -> None:
        os.chdir(folder)
        os.environ["STORYREASON_RUNS"] = place
        self._config = config

    def see(self, film: Reel) -> None:
        """Compute what is missing of a film. What is wrong with it, the flow is told when it comes to it."""
        from prefect.logging import disable_run_logger

        with disable_run_logger():
            try:
                kept = filming.extract.compute(self._config, film)
                if kept.kept:
                    filming.detect.compute(self._config, kept.folder, film.name, kept.fingerprint)
            except DataError:
                return


def ready(config: RunConfig, films: Sequence[Reel]) -> Iterator[Reel]:
    """The films in their order, each when workers have seen it; with `films.workers` 0 at once.

    Raises ConfigError if Ray is not installed or has no room for a worker, and RunError if it does not start or a film ends
    its worker again and again.
    """
    if not config.films.workers:
        yield from films
        return
    ray = _started(config)
    try:
        yield from _seen(ray, config, films)
    finally:
        ray.shutdown()


def _seen(ray: Any, config: RunConfig, films: Sequence[Reel]) -> Iterator[Reel]:
    gpus = 1 if config.films.device.startswith("cuda") else 0
    room = _room(ray, ("CPU", "GPU") if gpus else ("CPU",))
    if gpus:  # Ray shows a worker its own GPU alone, whatever its number
        config = config.model_copy(update={"films": config.films.model_copy(update={"device": "cuda"})})
    made = ray.remote(Worker).options(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=LIVES - 1)
    waiting, running, done = deque(films), dict[Any, tuple[Any, Reel]](), set[str]()

    def give(worker: Any) -> None:
        if waiting:
            film = waiting.popleft()
            running[worker.see.remote(film)] = worker, film

    for _ in range(min(config.films.workers, len(films), room)):
        give(made.remote(config, str(Path.cwd()), str(runs.root())))
    for film in films:
        while film.name not in done:
            (finished,), _ = ray.wait(list(running), num_returns=1)
            worker, seen = running.pop(finished)
            try:
                ray.get(finished)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None  # as the flow itself would have met it
            except ray.exceptions.RayActorError as error:
                raise RunError(
                    f"The worker that looked at {seen.path} ended {LIVES} times, perhaps for want of memory: set films.workers "
                    "lower, or take the film away."
                ) from error
            done.add(seen.name)
            give(worker)
        yield film


def _room(ray: Any, needs: Sequence[str]) -> int:
    """How many workers Ray's machines have room for, which need one of each: one more would wait for ever.

    Raises ConfigError if there is none.
    """
    machines = (one["Resources"] for one in ray.nodes() if one["Alive"])
    room = sum(int(min(one.get(name, 0) for name in needs)) for one in machines)
    if not room:
        raise ConfigError(
            f"No machine of Ray has a {' and a '.join(needs)} for a worker: set films.workers to 0, films.device to cpu, or "
            "RAY_ADDRESS to a cluster that has them."
        )
    return room


def _started(config: RunConfig) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of each start
    try:
        import ray
    except ImportError as error:
        raise ConfigError("films.workers needs Ray: pip install 'storyreason[build]', or set it to 0.") from error
    local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": config.films.workers, "include_dashboard": False}
    for left in reversed(range(STARTS)):
        try:
            ray.init(**local, log_to_driver=False, configure_logging=False, logging_level="error")
            break
        except Exception as error:  # Ray says it as such
            ray.shutdown()
            if not left:
                first = str(error).strip().split("\n")[0]
                raise RunError(
                    f"Ray did not start ({first}): try again when the machine is less busy, or set RAY_ADDRESS to a cluster that "
                    "runs."
                ) from error
    return ray
