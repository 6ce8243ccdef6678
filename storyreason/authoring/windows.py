"""Stories as windows: consecutive whole scenes of one film, with what is seen in each of their frames."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from storyreason.errors import DataError
from storyreason.format import kinds
from storyreason.format.boxes import Box
from storyreason.perception.frames import Frame

FEWEST, MOST = 5, 22
"""Images of a story."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """An entity in a frame: its ID in the film, what the detector calls it, its box in pixels, and how sure the ID is."""

    entity: str
    label: str
    box: Box
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Shot:
    """A frame and what is seen in it, people first, by ID."""

    frame: Frame
    seen: tuple[Sighting, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.frame.width, self.frame.height


@dataclass(frozen=True, slots=True)
class Window:
    """The images of one story. `number` counts the windows of the film from 1."""

    film: str
    number: int
    shots: tuple[Shot, ...]

    @property
    def story_id(self) -> str:
        """`clara-3`: the part before the last hyphen is the film, as everywhere in the data set."""
        return f"{self.film}-{self.number}"

    @property
    def entities(self) -> dict[str, str]:
        """The label of each entity, by ID, in the order of kinds and numbers."""
        labels = {seen.entity: seen.label for shot in self.shots for seen in shot.seen}
        return {entity: labels[entity] for entity in sorted(labels, key=kinds.sort_key)}


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a film, and how many of its frames are in none."""

    windows: tuple[Window, ...]
    left_over: int


def windows(shots: Sequence[Shot]) -> Windows:
    """The windows of a film, whose shots are sorted.

    Whole scenes are added until there are at least 5 images and a person. A scene of more than 22 images is divided evenly.
    Where one scene more would make it more than 22, the first scenes are left over; so is what remains at the film's end.
    """
    made: list[Window] = []
    open_: list[list[Shot]] = []
    for scene in _scenes(shots):
        open_.append(scene)
        while sum(map(len, open_)) > MOST:
            del open_[0]
        joined = [shot for one in open_ for shot in one]
        if len(joined) >= FEWEST and any(seen.entity.startswith("char") for shot in joined for seen in shot.seen):
            made.append(Window(joined[0].frame.film, len(made) + 1, tuple(joined)))
            open_ = []
    return Windows(tuple(made), len(shots) - sum(len(one.shots) for one in made))


def _scenes(shots: Sequence[Shot]) -> Iterator[list[Shot]]:
    """The shots of each scene; those of a long one in parts of about the same length."""
    scenes: dict[int, list[Shot]] = {}
    for shot in shots:
        scenes.setdefault(shot.frame.scene, []).append(shot)
    for scene in scenes.values():
        parts = -(-len(scene) // MOST)
        edges = [len(scene) * part // parts for part in range(parts + 1)]
        yield from (scene[start:end] for start, end in itertools.pairwise(edges))


@dataclass(frozen=True, slots=True)
class Seen:
    """The detections of films with the entities that `identify` gave them."""

    by_film: Mapping[str, Mapping[tuple[str, str], tuple[Sighting, ...]]]
    """By film, then by scene and frame."""

    def shots(self, frames: Sequence[Frame], gone: Iterable[tuple[int, int]] = ()) -> list[Shot]:
        """The frames of one film with what is seen in them; boxes are cut at the edge, and those beyond it left out.

        Raises DataError for a detection in a frame that there is not, unless its scene and frame are `gone`.
        """
        if not frames:
            return []
        film = frames[0].film
        for one, other in itertools.pairwise(frames):
            if (one.scene, one.frame) == (other.scene, other.frame):
                raise DataError(
                    f"Film {film!r} has frame {one.frame} of scene {one.scene} twice ({one.source} and {other.source}): give "
                    "two films two names."
                )
        found = dict(self.by_film.get(film, {}))
        shots = [Shot(one, tuple(_within(found.pop(_place(one.scene, one.frame), ()), one))) for one in frames]
        for place in gone:
            found.pop(_place(*place), None)
        if found:
            scene, frame = next(iter(found))
            raise DataError(
                f"{len(found)} frames of film {film!r} have detections and no picture, scene {scene}, frame {frame} first: "
                "detect in the frames that you name."
            )
        return shots


def _within(seen: Iterable[Sighting], frame: Frame) -> Iterator[Sighting]:
    for one in seen:
        x1, y1, x2, y2 = one.box
        box = Box(max(x1, 0), max(y1, 0), min(x2, frame.width), min(y2, frame.height))
        if box.x1 < box.x2 and box.y1 < box.y2:
            yield replace(one, box=box)


def recognized(detections: Path, ids: Path, film: str | None = None) -> Seen:
    """The detections in one parquet file with the entities in another, as `storyreason identify` takes and writes them.

    Those of all films, or of one. Raises DataError unless the second is of the first.
    """
    placed = _rows(detections, ("film", "scene", "frame", "detection", "label", "x1", "y1", "x2", "y2"), film)
    named = {
        (str(row["film"]), str(row["detection"])): (row["entity"], row["probability"])
        for row in _rows(ids, ("film", "detection", "entity", "probability"), film)
    }
    found: dict[str, dict[tuple[str, str], list[Sighting]]] = {}
    twice = Counter[tuple[str, tuple[str, str], str]]()
    for row in placed:
        of, detection = str(row["film"]), str(row["detection"])
        if (of, detection) not in named:
            raise DataError(
                f"{ids} has no entity for detection {detection} of film {of!r} in {detections}: run `storyreason identify` "
                "again."
            )
        place, (name, probability) = _place(row["scene"], row["frame"]), named[of, detection]
        twice[of, place, name] += 1
        if twice[of, place, name] > 1:
            raise DataError(
                f"{ids} has {name} twice in scene {place[0]}, frame {place[1]} of film {of!r}: an entity is in a frame once."
            )
        box = Box(*(round(row[corner]) for corner in ("x1", "y1", "x2", "y2")))
        found.setdefault(of, {}).setdefault(place, []).append(Sighting(name, str(row["label"]), box, probability))
    return Seen(
        {
            of: {
                place: tuple(sorted(seen, key=lambda one: kinds.sort_key(one.entity))) for place, seen in places.items()
            }
            for of, places in found.items()
        }
    )


def _place(scene: Any, frame: Any) -> tuple[str, str]:
    return str(scene), str(frame)


def identity(shots: Sequence[Shot]) -> str:
    """What identifies a film, its pictures and what is seen in them."""
    digest = hashlib.sha256()
    for shot in shots:
        kept = {name: getattr(shot.frame, name) for name in ("film", "scene", "frame", "seconds", "source")}
        parts = (json.dumps(kept).encode(), json.dumps([astuple(one) for one in shot.seen]).encode(), shot.frame.image)
        for part in parts:
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()


def _rows(path: Path, columns: Sequence[str], film: str | None) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        if missing := [name for name in columns if name not in schema.names]:
            raise DataError(f"{path} has no column {', '.join(missing)} (it has {', '.join(schema.names)}).")
        table = pq.read_table(path, columns=list(columns))
        if film is not None:
            table = table.filter(pc.equal(table.column("film").cast(pa.string()), film))
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet ({error}).") from error
    return rows
