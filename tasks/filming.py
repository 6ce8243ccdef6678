"""The first steps of a data set of films: the frames of each film, and what is detected in them."""

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.context import TaskRunContext

from storyreason import runs
from storyreason.config import RunConfig
from storyreason.perception import detecting, detectors, faces, filming, frames, looks, sources
from storyreason.perception.config import FilmsConfig
from tasks.progress import EVERY, Progress
from tasks.results import Detected, Extracted
from tasks.steps import USED, Work, step
from tasks.tracking import recall

LOOKS = "looks"
"""The folder in `runs/` with what was embedded, a folder for each film."""


@dataclass(frozen=True)
class Reel:
    """A film: its name, where it is, and what identifies its content."""

    name: str
    path: Path
    content: str


def known_looks(film: str) -> Path:
    """The folder with the looks of a film that were embedded before."""
    return runs.root() / LOOKS / runs.fingerprint(film=film)


def has_frames(place: Path) -> bool:
    """Whether a folder has the table of frames already; otherwise it is films, or a film."""
    return (place / frames.FILE).is_file()


def reel(name: str, path: Path) -> Reel:
    """A film that `sources.find` has found. Raises DataError if it cannot be read."""
    USED.get()(known_looks(name))
    if path.is_relative_to(runs.root()):  # GroundCap's pictures
        USED.get()(path)
    return Reel(name, path, sources.fingerprint(path))


class _Told:
    """Shows how far a film is, once that takes a while."""

    def __init__(self, stage: str) -> None:
        self._stage, self._since = stage, time.monotonic()
        self._shown: Progress | None = None

    def __call__(self, film: str, done: int, count: int) -> None:
        if self._shown is None:
            # Without a task run there is nobody to tell, and Prefect would start a server for it.
            if time.monotonic() - self._since < EVERY or TaskRunContext.get() is None:
                return
            self._shown = Progress(f"films-{self._stage}", f"{self._stage} of {film}")
        # How many frames a video has is an estimate, and may be too low.
        self._shown.report(
            done, max(count, done + 1), f"{self._stage} of {film}: {done:,} of {max(count, done):,} frames"
        )


def _extract_named_by(config: RunConfig, film: Reel) -> str:
    return runs.fingerprint(
        step="extract",
        version=filming.VERSION,
        film=film.name,
        content=film.content,
        settings=[*_cut_by(config.films)],
    )


def _settings(chosen: FilmsConfig) -> filming.Settings:
    return filming.Settings(chosen.per_scene, chosen.longest_side, chosen.cuts, chosen.device)


@step(_extract_named_by, run_name="extract-{film.name}")
def extract(work: Work, config: RunConfig, film: Reel) -> Extracted:
    """Cut a film into scenes, and keep the sharp frames of each that differ."""
    settings = _settings(config.films)
    out = work.folder / frames.FILE
    report = filming.film(film.name, film.path, work.fingerprint, out, settings, _Told("extract"))
    get_run_logger().info(
        "%s: %d of %d frames of %d scenes are kept", film.name, report.kept, report.seen, report.scenes
    )
    return Extracted((frames.FILE,), work.fingerprint, film.name, work.folder, report.kept, report.problem or "")


Models = tuple[detecting.Detector, detecting.Looker, detecting.FaceFinder | None]


@functools.lru_cache(maxsize=1)
def _models(chosen: FilmsConfig) -> Models:
    """The models that detect. They stay loaded from film to film, until `unload`."""
    known = _seen_by(chosen)
    detector = detectors.named(
        chosen.detector, chosen.names, chosen.stuff, chosen.threshold, chosen.device, known["detector"]
    )
    finder = detectors.finder(detector, known["faces"]) if chosen.faces == "dlib" else None
    return detector, looks.named(chosen.looks, chosen.device, known["looks"]), finder


@functools.lru_cache(maxsize=1)
def _cut_by(chosen: FilmsConfig) -> tuple[Any, ...]:
    """What determines which frames of films are kept, as `_seen_by`."""
    return tuple(_settings(chosen).identity().values())


@functools.lru_cache(maxsize=1)
def _seen_by(chosen: FilmsConfig) -> dict[str, str]:
    """What identifies the models that detect, for all films of a run: their weights are read once. `check` begins anew."""
    return {
        "detector": detectors.identity(chosen.detector, chosen.names, chosen.stuff, chosen.threshold),
        "faces": faces.identity() if chosen.faces == "dlib" else "none",
        "looks": looks.identity(chosen.looks),
    }


def unload() -> None:
    """Free the memory of the models that detect."""
    _models.cache_clear()


def check(config: RunConfig, films: list[Reel]) -> bool:
    """Load the models that detect, unless all films are done: what is missing is said before hours of work.

    It begins a run: the models of an earlier one in this process may be others now. Gives whether there is something to do.
    Raises ConfigError, ModelError or DataError.
    """
    unload()
    _cut_by.cache_clear()
    _seen_by.cache_clear()
    extracted = [extract.work(config, film) for film in films]
    detected = [detect.work(config, Path(), "", one.fingerprint) for one in extracted]
    for work in (*extracted, *detected):  # workers of Ray, who may do them first, do not write the record of the build
        USED.get()(runs.root() / work.step / work.fingerprint)
    if all(recall(work.folder) is not None for work in detected):
        return False
    _models(config.films)
    return True


def _detect_named_by(config: RunConfig, kept: Path, name: str, content: str) -> str:
    return runs.fingerprint(
        step="detect",
        version=detecting.VERSION,
        frames=content,
        **_seen_by(config.films),
    )


@step(_detect_named_by, run_name="detect-{name}")
def detect(work: Work, config: RunConfig, kept: Path, name: str, content: str) -> Detected:
    """Find people and things in frames, their faces, and what they look like. `content` identifies the table of frames."""
    out = work.folder / "detections.parquet"
    detector, looker, finder = _models(config.films)
    told = _Told("detect")
    known = None if config.films.looks == looks.COLOURS else known_looks(name)  # colours are faster counted than read
    report = detecting.detect(kept, out, detector, looker, finder, config.films.batch, told, known)
    get_run_logger().info("%s: %d detections in %d frames, %d with a face, %d looks embedded; left out: %s", name,
                          report.detections, report.frames, report.faces, report.embedded,
                          dict(+report.left_out) or "none")  # fmt: skip
    return Detected((out.name,), out, report.detections)
