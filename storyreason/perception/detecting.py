"""Frames to detections: what a detector finds, with the faces and looks of it, as the table that `identify` reads.

Films that are done lie beside the output, under a fingerprint of their frames and of the models, until all are done.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from storyreason import pictures, runs
from storyreason.errors import DataError
from storyreason.format.boxes import iou_matrix
from storyreason.perception import frames
from storyreason.perception.film import kinds
from storyreason.perception.frames import Frame
from storyreason.perception.known import Known

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
"""Raise it when this module turns the same boxes of a detector into other detections."""
MOST = 40
"""Detections of a frame, at most."""
DOUBLE, SAME_PLACE = 0.65, 0.9
"""IoU at and above which two boxes are one detection: of one label, and of any two."""
SMALLEST = 4
"""Pixels of a side, at least."""


@dataclass(frozen=True)
class Found:
    """A thing in a picture."""

    label: str
    box: tuple[float, float, float, float]
    """`x1,y1,x2,y2` in pixels."""
    score: float
    """0 to 1."""
    mask: np.ndarray | None = None
    """Which pixels of the picture it covers, of shape [height, width], if the detector says it."""


@dataclass(frozen=True)
class Face:
    """A face in a picture."""

    box: tuple[float, float, float, float]
    score: float
    embedding: np.ndarray

    @property
    def height(self) -> float:
        """Pixels."""
        return self.box[3] - self.box[1]


class Detector(Protocol):
    """Finds people and things. `identity` names everything that determines what it finds."""

    identity: str

    def detect(self, frames: Sequence[Frame], images: Sequence[np.ndarray]) -> list[list[Found]]:
        """What is in each picture: RGB, uint8 of shape [height, width, 3]."""


class FaceFinder(Protocol):
    """Finds faces and embeds them."""

    identity: str

    def faces(self, image: np.ndarray) -> list[Face]: ...


class Looker(Protocol):
    """Embeds what is in boxes: float32 of shape [boxes, d]."""

    identity: str

    def looks(self, image: np.ndarray, found: Sequence[Found]) -> np.ndarray: ...


@dataclass
class Report:
    """What became of the frames of all films."""

    films: int = 0
    frames: int = 0
    detections: int = 0
    faces: int = 0
    """Faces that belong to a person."""
    left_out: Counter[str] = field(default_factory=Counter)
    """What was found and left out, by reason."""
    embedded: int = 0
    """Looks that were not known."""
    known: int = 0
    """Films that an earlier run had done."""


def detect(
    source: Path,
    out: Path,
    detector: Detector,
    looker: Looker,
    finder: FaceFinder | None = None,
    batch: int = 8,
    tell: Callable[[str, int, int], None] = lambda film, done, all: None,
    known: Path | None = None,
) -> Report:
    """Write the detections in the frames of a folder to `out`, completely or not at all; each picture is decoded once.

    Looks that are in the folder `known` are not embedded again, and it gains the new ones. Where nothing is found, the table
    has no rows. Raises DataError for frames that cannot be read, and RunError while another process writes there, or if the
    disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    counted, report = frames.films(source), Report()
    parts = out.with_name(f".{out.name}.films")
    models = {"Detector": detector.identity, "Faces": finder.identity if finder else "none", "Looks": looker.identity}
    with runs.lock(parts):
        done = []
        for film, count in counted.items():
            name = runs.fingerprint(version=VERSION, frames=_content(source, film), models=models)
            path = parts / f"{name}.parquet"
            report.known += path.exists()
            if not path.exists():
                kept = Known(looker.identity, known)
                rows = list(_film(source, film, count, detector, looker, kept, finder, batch, report, tell))
                kept.keep()
                report.embedded += kept.embedded
                _write(path, pa.Table.from_pylist(rows, _schema()))
            done.append(path)
            report.films += 1
            report.frames += count
        tables = [pq.read_table(path, schema=_schema()) for path in done]
        whole = pa.concat_tables(tables)
        report.detections = whole.num_rows
        report.faces = whole.num_rows - whole.column("face").null_count
        _write(out, whole.replace_schema_metadata({_MODELS: json.dumps(models)}))
    shutil.rmtree(parts, ignore_errors=True)
    return report


_MODELS = b"storyreason.models"


def models(table: Path) -> dict[str, str]:
    """The models whose detections are in a table, as `Detector`, `Faces` and `Looks`; empty for a table of others."""
    import pyarrow.parquet as pq

    found = (pq.read_schema(table).metadata or {}).get(_MODELS, b"{}")
    return dict(json.loads(found))


def _film(
    source: Path, film: str, count: int, detector: Detector, looker: Looker, known: Known, finder: FaceFinder | None, batch: int,
    report: Report, tell: Callable[[str, int, int], None],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    seen, rows = 0, frames.read(source, film)
    while part := list(islice(rows, batch)):
        images = [_decoded(frame) for frame in part]
        for frame, image, found in zip(part, images, detector.detect(part, images), strict=True):
            kept = chosen(found, image.shape[1], image.shape[0], report.left_out)
            faces = finder.faces(image) if finder and "char" in kinds(one.label for one in kept) else []
            owners = assigned(faces, kept)
            report.left_out["faces that belong to no person"] += len(faces) - len(owners)
            looks = _looks(frame, image, kept, looker, known) if kept else ()
            for number, (one, look) in enumerate(zip(kept, looks, strict=True)):
                yield _row(frame, number, one, owners.get(number), look)
            seen += 1
            tell(film, seen, count)


def _looks(frame: Frame, image: np.ndarray, found: Sequence[Found], looker: Looker, known: Known) -> np.ndarray:
    areas = [(one.box, one.mask) for one in found]
    return known.looks(frame.image, areas, lambda new: looker.looks(image, [found[at] for at in new]))


def _row(frame: Frame, number: int, found: Found, face: Face | None, look: np.ndarray) -> dict[str, Any]:
    x1, y1, x2, y2 = found.box
    return {
        "film": frame.film, "scene": frame.scene, "frame": frame.frame, "detection": f"{frame.frame}-{number}",
        "label": found.label, "x1": x1, "y1": y1, "x2": x2, "y2": y2, "score": found.score,
        "face_height": face and face.height, "face": face and face.embedding.tolist(),
        "look": look.tolist() if np.any(look) else None,
    }  # fmt: skip


def _decoded(frame: Frame) -> np.ndarray:
    try:
        return np.array(pictures.rgb(frame.image))  # a copy: torch wants one that can be written to
    except pictures.PictureError as error:
        raise DataError(f"{frame.place} does not decode ({error}): make the frames again.") from error


def _content(source: Path, film: str) -> str:
    """A hash of a film's frames."""
    digest = hashlib.sha256()
    for frame in frames.read(source, film):
        digest.update(f"{frame.film}\0{frame.scene}\0{frame.frame}\0{len(frame.image)}\0".encode())
        digest.update(frame.image)
    return digest.hexdigest()


def _schema() -> "pa.Schema":
    """The columns of `storyreason.perception.detections`."""
    import pyarrow as pa

    embedding = pa.list_(pa.float32())
    names = {
        "film": pa.string(),
        "scene": pa.int32(),
        "frame": pa.int32(),
        "detection": pa.string(),
        "label": pa.string(),
    }
    numbers = dict.fromkeys(("x1", "y1", "x2", "y2", "score", "face_height"), pa.float32())
    return pa.schema({**names, **numbers, "face": embedding, "look": embedding})


def _write(path: Path, table: "pa.Table") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    try:
        runs.write_bytes(path, sink.getvalue().to_pybytes())
    except OSError as error:
        raise frames.unwritable(path, error) from error


def chosen(found: Sequence[Found], width: int, height: int, left_out: Counter[str]) -> list[Found]:
    """The most telling detections of a picture, each thing once, from left to right and top to bottom.

    Of doubles the more certain is kept. The most telling are those with the largest score times the root of the area.
    """
    inside = [one for one in (_clipped(one, width, height) for one in found) if one is not None]
    left_out["too small"] += len(found) - len(inside)
    inside.sort(key=lambda one: (-one.score, one.label, one.box))
    overlaps = iou_matrix(np.array([one.box for one in inside]), np.array([one.box for one in inside]))
    kept: list[int] = []
    for at, one in enumerate(inside):
        if not any(
            overlaps[at, other] >= (DOUBLE if inside[other].label == one.label else SAME_PLACE) for other in kept
        ):
            kept.append(at)
    left_out["doubles"] += len(inside) - len(kept)
    kept.sort(key=lambda at: -inside[at].score * _area(inside[at]) ** 0.5)
    left_out[f"beyond the {MOST} most telling of a frame"] += len(kept[MOST:])
    return sorted((inside[at] for at in kept[:MOST]), key=lambda one: (one.box, one.label))


def _area(one: Found) -> float:
    x1, y1, x2, y2 = one.box
    return (x2 - x1) * (y2 - y1)


def _clipped(one: Found, width: int, height: int) -> Found | None:
    x1, y1, x2, y2 = one.box
    box = (max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2))
    return Found(one.label, box, one.score, one.mask) if min(box[2] - box[0], box[3] - box[1]) >= SMALLEST else None


def assigned(faces: Sequence[Face], found: Sequence[Found]) -> dict[int, Face]:
    """The face of each person that has one, by the person's place in `found`; one face is one person's.

    The assignment maximizes the sum of how much of each face lies in its person's mask, or in the upper half of the box;
    faces of which more than half does not are nobody's. Where boxes overlap, the person whose head is nearer is preferred.
    """
    from scipy.optimize import linear_sum_assignment

    people = [at for at, kind in enumerate(kinds(one.label for one in found)) if kind == "char"]
    if not faces or not people:
        return {}
    worth = np.array([[_belongs(face, found[at]) for at in people] for face in faces])
    rows, columns = linear_sum_assignment(-worth)
    return {
        people[at]: faces[row] for row, at in zip(rows.tolist(), columns.tolist(), strict=True) if worth[row, at] > 0.5
    }


def _belongs(face: Face, person: Found) -> float:
    x1, y1, x2, y2 = face.box
    left, top, right, bottom = person.box
    if person.mask is not None:
        part = person.mask[max(0, round(y1)) : round(y2), max(0, round(x1)) : round(x2)]
        return float(part.mean()) if part.size else 0.0
    across = max(0.0, min(x2, right) - max(x1, left))
    down = max(0.0, min(y2, top + (bottom - top) / 2) - max(y1, top))
    inside = across * down / ((x2 - x1) * (y2 - y1))
    # Of two boxes that both hold it: the one in whose upper middle it is.
    off = abs((x1 + x2) / 2 - (left + right) / 2) / (right - left) + abs(y1 - top) / (bottom - top)
    return inside - 0.2 * min(1.0, off) if inside > 0.6 else 0.0
