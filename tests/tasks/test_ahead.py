"""Films that workers of Ray look at: the same bytes as one after the other, whoever is killed."""

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from storyreason.sample import movie
from tasks import ahead
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
