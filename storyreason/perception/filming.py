"""Films to frames: reads each film once, keeps its frames, and goes on where it was interrupted.

`frames.parquet` names in its metadata each film that it holds, by a fingerprint of the film's bytes and of the settings.
While a run lasts, finished films lie in a hidden folder, under their fingerprints.
"""

import functools
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyreason import pictures, runs
from storyreason.errors import ConfigError, DataError
from storyreason.perception import choosing, cuts, frames, sources, transnet
from storyreason.perception.frames import Frame
from storyreason.perception.video import WIDTH, Seen

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
"""Raise it when other frames of the same film are kept."""
QUALITY = 90
PARTS = ".films"
"""The folder of finished films, which goes at the end: hidden, since the films themselves may lie in a folder `films`."""
WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box of a frame without bars."""


CUTS = "scenedetect"
"""What finds cuts, by default (`cuts.py`)."""
_NETWORK = "transnetv2:"


@dataclass(frozen=True)
class Settings:
    """What of a film is kept."""

    per_scene: int = 3
    """Frames of a scene, at most. Where subfolders say the scenes, all frames that differ are kept."""
    longest_side: int = 1280
    """Pixels: larger frames are made smaller."""
    cuts: str = CUTS
    """What finds the cuts of videos: this, or `transnetv2:FOLDER`."""
    device: str = "cpu"
    """Where a network runs."""

    def identity(self) -> dict[str, Any]:
        """What determines which frames are kept. Raises ModelError or ConfigError."""
        kept = {"per_scene": self.per_scene, "longest_side": self.longest_side}
        if self.cuts == CUTS:
            return kept
        if not self.cuts.startswith(_NETWORK):
            raise ConfigError(f"Nothing that finds cuts is called {self.cuts}: name {CUTS}, or {_NETWORK}FOLDER.")
        return {**kept, "cuts": transnet.identity(Path(self.cuts.removeprefix(_NETWORK)))}

    def scenes(self, seen: Iterator[Seen], rate: float | None) -> Iterator[tuple[int, Seen]]:
        """The pictures of a film with their scenes, counted from 0. `rate` is that of a video; None for pictures."""
        if self.cuts == CUTS or rate is None:
            return cuts.scenes(seen, rate)
        return transnet.scenes(seen, _network(self.cuts.removeprefix(_NETWORK), self.device))


@functools.lru_cache(maxsize=1)
def _network(folder: str, device: str) -> transnet.Network:
    """It stays loaded from film to film."""
    return transnet.Network(Path(folder), device)


@dataclass
class Report:
    """What became of a film."""

    film: str
    fingerprint: str
    seen: int = 0
    kept: int = 0
    scenes: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    """Frames that were read and are not kept, by reason (`choosing.LEFT_OUT`)."""
    problem: str | None = None
    """What of the film could not be read, as a sentence."""


def extract(
    paths: Sequence[Path],
    out: Path,
    settings: Settings | None = None,
    tell: Callable[[str, int, int], None] = lambda film, done, all: None,
) -> tuple[list[Report], list[str]]:
    """Write the frames of films to `out`. Returns a report for each film, and a sentence for each that is left out.

    `tell` is called with a film's name, the frames read and their number. Raises DataError if no film can be read, and
    RunError while another process writes there.
    """
    settings = settings or Settings()
    found = sources.find(paths)
    reports, left_out = list[Report](), list[str]()
    with runs.lock(out):
        before = {one.fingerprint: one for one in _held(out)}
        for name, path in found.items():
            try:
                print_ = runs.fingerprint(
                    version=VERSION, film=name, content=sources.fingerprint(path), **settings.identity()
                )
                part = _part(out, print_)
                report = before.get(print_) or _done(part) or film(name, path, print_, part, settings, tell)
            except DataError as error:
                left_out.append(str(error))
                continue
            reports.append(report)
        if not reports:
            raise DataError(f"No film could be read. {' '.join(left_out)}")
        held = {one.film for one in reports if one.fingerprint in before}
        gone = [one for one in frames.gone(out) if one[0] in held] if held else []
        said = {_KEY: json.dumps([asdict(one) for one in reports])} | ({frames.GONE: json.dumps(gone)} if gone else {})
        frames.write(out / frames.FILE, _all(out, reports, before), lambda: said)
        shutil.rmtree(out / PARTS, ignore_errors=True)
    return reports, left_out


_KEY = "storyreason.films"


def reports(folder: Path) -> list[Report]:
    """What became of the films whose frames are in a folder. Raises DataError if it has none."""
    frames.films(folder)
    return _held(folder)


def _held(out: Path) -> list[Report]:
    try:
        return [Report(**one) for one in json.loads(frames.metadata(out).get(_KEY, "[]"))]
    except DataError:  # new, or damaged: it is made again
        return []


def _part(out: Path, fingerprint: str) -> Path:
    return out / PARTS / f"{fingerprint}.parquet"


def _done(part: Path) -> Report | None:
    """The report of a film that an interrupted run has finished."""
    try:
        (found,) = json.loads(frames.metadata(part)[_KEY])
    except (DataError, KeyError, ValueError):
        return None
    return Report(**found)


def _all(out: Path, reports: Sequence[Report], before: dict[str, Report]) -> Iterator[Frame]:
    for report in reports:
        held = report.fingerprint in before
        yield from frames.read(out if held else _part(out, report.fingerprint), report.film)


def film(
    name: str, path: Path, fingerprint: str, out: Path, settings: Settings, tell: Callable[[str, int, int], None]
) -> Report:
    """Write the frames of one film to the file `out`, completely or not at all.

    Raises DataError if the film cannot be read, and RunError if the file cannot be written.
    """
    source = sources.open_film(path)
    report = Report(name, fingerprint)

    def counted() -> Iterator[Seen]:
        for one in source.frames():
            report.seen += 1
            tell(name, report.seen, source.count)
            yield one

    def kept() -> Iterator[Frame]:
        stream = counted()
        first = next(stream, None)
        if first is None:
            return
        told = first.scene is not None
        whole = _joined(first, stream)
        chooser = choosing.Chooser(None if told else settings.per_scene)
        scenes = ((one.scene or 0, one) for one in whole) if told else settings.scenes(whole, source.rate)
        for one in chooser.kept(scenes):
            report.kept += 1
            yield _frame(name, one, settings.longest_side)
        report.scenes, report.left_out = chooser.scenes, dict(chooser.left_out)
        report.problem = source.problem

    # Metadata are written after the frames: what they say is known then.
    frames.write(out, kept(), lambda: {_KEY: json.dumps([asdict(report)])})
    return report


def _joined(first: Seen, rest: Iterator[Seen]) -> Iterator[Seen]:
    yield first
    yield from rest


def _frame(film: str, kept: choosing.Kept, longest: int) -> Frame:
    seen = kept.seen
    pixels = _cut(seen.pixels(), kept.box)
    height, width = pixels.shape[:2]
    image = seen.encoded
    # A JPEG that needs no change stays as it is: another generation would only lose.
    if image is None or pictures.sniff(image) != "jpeg" or kept.box != WHOLE or max(width, height) > longest:
        width, height, image = _jpeg(pixels, longest)
    return Frame(film, kept.scene, seen.number, seen.seconds, seen.source, width, height, image)


def _cut(pixels: "np.ndarray", box: tuple[float, float, float, float]) -> "np.ndarray":
    """Without bars. What is left of them at the edges, since the box comes from a small picture, goes too."""
    if box == WHOLE:
        return pixels
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = (round(share * size) for share, size in zip(box, (width, height) * 2, strict=True))
    part = pixels[y1:y2, x1:x2]
    step = 1 + width // WIDTH
    lit = part.max(axis=2) > choosing.DARK
    rows, columns = lit.any(axis=1), lit.any(axis=0)

    def edge(line: Any) -> int:
        return next((at for at in range(min(step, len(line))) if line[at]), min(step, len(line) - 1))

    return part[edge(rows) : len(rows) - edge(rows[::-1]), edge(columns) : len(columns) - edge(columns[::-1])]


def _jpeg(pixels: "np.ndarray", longest: int) -> tuple[int, int, bytes]:
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY)
    return *picture.size, out.getvalue()
