"""A whole build without Prefect: its steps in the order of the flow."""

import os
from pathlib import Path
from typing import Any

from storyreason.config import RunConfig


def config(url: str, **settings: Any) -> RunConfig:
    """A configuration with an authoring endpoint."""
    chosen = {"endpoint": url, "grammars": False, "pause": 0, "retries": 0, "concurrency": 2, "test_share": 0.5}
    return RunConfig.model_validate({"authoring": {**chosen, **settings}})


def whole(kept: Path, runs: Path, url: str, licence: str = "cc-by-4.0", **settings: Any) -> Path:
    """Build the films in `kept` with this `runs` folder; gives the folder of the data set."""
    os.environ["STORYREASON_RUNS"] = str(runs)
    from prefect.logging import disable_run_logger

    from tasks import building

    chosen, authored = config(url, **settings), list[Any]()
    with disable_run_logger():
        detections = kept / "detections.parquet"
        if chosen.authoring.landmarks:
            detections = building.landmarks.compute(chosen, kept, detections).detections
        recognized = building.recognize.compute(detections, None)
        films = building.footage(kept, detections, recognized.ids)
        for film in films:
            building.sheet.compute(film)
        for film in films:
            authored.append(building.author.compute(chosen, film, sum(one.cost for one in authored)))
        return building.assemble.compute(chosen, films, authored, licence).folder


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a data set."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
