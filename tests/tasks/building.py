"""A whole build without Prefect: its steps in the order of the flow."""

import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from storyreason.config import RunConfig
from storyreason.dataset import Withdrawn


def config(url: str, **settings: Any) -> RunConfig:
    """A configuration with an authoring endpoint."""
    chosen = {"endpoint": url, "grammars": False, "pause": 0, "retries": 0, "concurrency": 2, "test_share": 0.5}
    films = settings.pop("films", {})
    return RunConfig.model_validate({"authoring": {**chosen, **settings}, "films": films})


def whole(
    kept: Path, runs: Path, url: str, licence: str = "cc-by-4.0", withdrawn: Sequence[Withdrawn] = (), **settings: Any
) -> Path:
    """Build the films in `kept` with this `runs` folder; gives the folder of the data set."""
    os.environ["STORYREASON_RUNS"] = str(runs)
    from prefect.logging import disable_run_logger

    from tasks import building, withdrawing

    chosen, authored, named = config(url, **settings), list[Any](), list[Any]()
    with disable_run_logger():
        films = list[Any]()
        for table in seen(chosen, kept):
            if withdrawn:
                table, _ = withdrawing.hide(table, building.recognize.compute(table.detections, None).ids, withdrawn)
            if chosen.authoring.landmarks:
                named.append(building.landmarks.compute(chosen, table, building.cost(chosen, named)))
                table = replace(table, detections=named[-1].detections)
            films += building.footage(table, building.recognize.compute(table.detections, None).ids)
        for film in films:
            building.sheet.compute(film)
        for film in films:
            authored.append(building.author.compute(chosen, film, building.cost(chosen, [*named, *authored])))
        return building.assemble.compute(chosen, films, authored, licence, named).folder


def seen(chosen: RunConfig, films: Path) -> list[Any]:
    """The frames and detections of films, or of a folder that has them."""
    from storyreason.perception import sources
    from tasks import ahead, filming
    from tasks.building import Tables

    if filming.has_frames(films):
        return [Tables(films, films / "detections.parquet")]
    found = []
    for reel in ahead.ready(chosen, [filming.reel(name, path) for name, path in sources.find([films]).items()]):
        kept = filming.extract.compute(chosen, reel)
        detected = filming.detect.compute(chosen, kept.folder, reel.name, kept.fingerprint)
        found.append(Tables(kept.folder, detected.detections))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a data set."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def storm(source: Path, folder: Path, kills: int, seed: int = 18, **settings: Any) -> Counter[str]:
    """Kill builds `kills` times at random, after some time or some requests, and compare each that completes.

    Gives how many builds completed, how many requests were paid for twice because a kill lost the reply, and how many kills
    each stage had: the newest folder of a step says which one it was.
    """
    from tests.storyreason.authoring import scripted

    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["tests.tasks.building", "tasks.building", "tasks.filming", "pyarrow.parquet", "pyarrow.compute"]
    )
    luck, told = random.Random(seed), Counter[str]()

    def started(place: Path) -> Any:
        process = processes.Process(target=whole, args=(source, place, endpoint.url), kwargs=settings)
        process.start()
        return process

    with scripted.endpoint() as endpoint:
        begun = time.monotonic()
        first = started(folder / "unbroken")
        first.join()
        took, once = time.monotonic() - begun, len(endpoint.bodies)
        unbroken = contents(whole(source, folder / "unbroken", endpoint.url, **settings))
        while kills:
            place = folder / f"stormed-{told['builds']}"
            while kills:
                asked, since = len(endpoint.bodies), time.monotonic()
                most, wait = luck.randint(1, once), luck.uniform(0, took)
                by_time, running = luck.random() < 0.6, started(place)
                while running.is_alive():
                    running.join(0.002)
                    if (time.monotonic() - since > wait) if by_time else (len(endpoint.bodies) >= asked + most):
                        break
                if not running.is_alive():
                    assert running.exitcode == 0
                    break
                running.kill()
                running.join()
                kills -= 1
                told[f"killed in {_newest(place)}"] += 1
            assert contents(whole(source, place, endpoint.url, **settings)) == unbroken
            assert not [path for path in place.rglob("*.unfinished") if "extract" not in path.parts]
            told["builds"] += 1
        told["paid twice"] = len(endpoint.bodies) - (told["builds"] + 1) * once
    return told


def _newest(place: Path) -> str:
    """The step that wrote last."""
    folders = [path for path in place.glob("*/*") if path.is_dir()]
    return max(folders, key=lambda path: path.stat().st_mtime_ns).parent.name if folders else "the start"
