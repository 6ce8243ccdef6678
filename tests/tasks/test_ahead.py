"""Films that workers of Ray look at: the same bytes as one after the other, whoever is killed."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from storyreason.config import RunConfig
from storyreason.errors import ConfigError, ModelError, RunError
from storyreason.sample import movie
from tasks import ahead
from tasks.filming import Reel
from tests.tasks.building import config, seen


def see(films: Path, runs: Path, workers: int) -> None:
    """Frames and detections of films, in this `runs` folder."""
    from prefect.logging import disable_run_logger

    os.environ["STORYREASON_RUNS"] = str(runs)
    with disable_run_logger():
        seen(config("", films={"detector": f"truth:{films}", "workers": workers}), films)


def contents(runs: Path) -> dict[str, bytes]:
    return {str(path.relative_to(runs)): path.read_bytes() for path in sorted(runs.glob("*/*/*.parquet"))}


def waited(what: Callable[[], Any]) -> Any:
    """What it gives, once that is something."""
    deadline = time.monotonic() + 120
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def processes_of(driver: int) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(driver).children(recursive=True)
        return found
    except psutil.NoSuchProcess:
        return []


def busy(driver: int) -> list[psutil.Process]:
    """The workers that look at a film: Ray names processes by what they do."""
    found = []
    for one in processes_of(driver):
        try:
            found += [one] if one.cmdline()[:1] == [f"ray::{ahead.Worker.see.__qualname__}"] else []
        except psutil.Error:
            continue
    return found


class Ray:
    """Ray with its own exceptions, and nothing that runs: `get` raises what it is told, if anything."""

    def __init__(self, fails: Exception | None = None, nodes: Sequence[dict[str, float]] = ({"CPU": 2},)) -> None:
        self.exceptions = pytest.importorskip("ray").exceptions
        self.devices: list[str] = []
        """What each worker is to use."""
        self._fails, self._nodes = fails, nodes

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": one} for one in self._nodes] + [{"Alive": False, "Resources": {"CPU": 9}}]

    def remote(self, _: object) -> Any:
        def made(config: RunConfig, *_: str) -> Any:
            self.devices.append(config.films.device)
            return SimpleNamespace(see=SimpleNamespace(remote=lambda film: film.name))

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=made))

    def wait(self, running: list[str], num_returns: int) -> tuple[list[str], list[str]]:
        return running[:num_returns], running[num_returns:]

    def get(self, _: str) -> None:
        if self._fails is not None:
            raise self._fails


FILMS = [Reel(name, Path(f"{name}.mp4"), "") for name in ("anton", "clara", "emil")]


def test_a_film_that_ends_its_worker_again_and_again_is_named() -> None:
    died = pytest.importorskip("ray").exceptions.RayActorError()
    with pytest.raises(RunError, match=r"looked at anton\.mp4 ended 3 times, .* set films\.workers lower"):
        list(ahead._seen(Ray(died), config("", films={"workers": 2}), FILMS))


def test_what_a_worker_raises_is_said_as_it_is() -> None:
    told = ModelError("There is no detector.")
    failed = pytest.importorskip("ray").exceptions.RayTaskError("see", "a trace", told, ip="here")
    with pytest.raises(ModelError) as found:
        list(ahead._seen(Ray(failed.as_instanceof_cause()), config("", films={"workers": 2}), FILMS))
    assert found.value is told


@pytest.mark.parametrize(
    ("device", "nodes", "started"),
    [
        ("cpu", [{"CPU": 1}], ["cpu"]),
        ("cpu", [{"CPU": 8}], ["cpu"] * 3),
        ("cuda:1", [{"CPU": 8, "GPU": 1}, {"CPU": 1, "GPU": 1}, {"CPU": 8}], ["cuda", "cuda"]),
    ],
)
def test_there_are_no_more_workers_than_ray_has_room_for(device: str, nodes: Any, started: list[str]) -> None:
    ray = Ray(nodes=nodes)
    films = list(ahead._seen(ray, config("", films={"workers": 5, "device": device}), FILMS))
    assert films == FILMS and ray.devices == started


def test_a_cluster_without_room_for_a_worker_is_said() -> None:
    with pytest.raises(ConfigError, match=r"No machine of Ray has a CPU and a GPU for a worker: set films\.workers"):
        list(ahead._seen(Ray(), config("", films={"workers": 2, "device": "cuda"}), FILMS))


@pytest.mark.server
@pytest.mark.long
def test_what_workers_see_has_the_bytes_of_the_plain_loop_whoever_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))  # else Ray makes one in the home folder
    (tmp_path / "token").write_text("0" * 64)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    films = tmp_path / "films"
    for seed in (7, 8):
        movie.write(films, seed, 8)
    processes = multiprocessing.get_context("spawn")

    def started(runs: Path, workers: int) -> Any:
        process = processes.Process(target=see, args=(films, runs, workers))
        process.start()
        return process

    plain = started(tmp_path / "plain", 0)
    driver = started(tmp_path / "killed", 2)
    two = waited(lambda: len(found := busy(driver.pid)) == 2 and found)
    two[0].kill()
    waited(lambda: len({one.pid for one in busy(driver.pid)} | {one.pid for one in two}) > 2)  # its successor
    others = [
        one for one in processes_of(driver.pid) if not one.name().endswith("Agent")
    ]  # Ray's own end minutes later
    driver.kill()
    assert not psutil.wait_procs(others, timeout=120)[1]  # none outlives the flow

    again = started(tmp_path / "killed", 2)
    for one in (plain, again):
        one.join()
        assert one.exitcode == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "plain")
    assert len(contents(tmp_path / "plain")) == 4
