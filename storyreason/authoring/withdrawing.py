"""Withdrawal from the tables that stories are made of, and what a new build of the same films leaves out."""

import json
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from storyreason.authoring.windows import Shot, recognized
from storyreason.dataset.withdrawn import Place, Withdrawn, again
from storyreason.format.boxes import iou_matrix
from storyreason.perception import frames
from storyreason.perception.corrections import OVERLAP
from storyreason.perception.frames import Frame

At = tuple[int, int]
"""The scene and the frame of a shot."""


def hidden(
    shots: Sequence[Shot],
    withdrawn: Sequence[Withdrawn],
    gone: Set[At] = frozenset(),
    say: Callable[[str], object] = lambda _: None,
) -> frozenset[At]:
    """The shots of a film that show what was withdrawn: where it was seen before, and all with the same entity as there.

    A film is hidden whole if it is withdrawn, or if it is not known where in it the entity is, which is told. Of an entity
    that was only in shots that are `gone` from the film, nothing is left to hide.
    """
    at = {(shot.frame.scene, shot.frame.frame): shot for shot in shots}
    found: set[At] = set()
    for entry in withdrawn:
        if not entry.places:
            return frozenset(at)
        if entry.frames <= gone:
            continue
        now = again(entry.frames, at)
        there = (
            _entity(at[now[place.scene, place.frame]], place)
            for place in entry.places
            if (place.scene, place.frame) in now
        )
        entities = set(there) - {None}
        if at and not entities:
            say(
                f"Film {entry.film} is left out: nothing is detected where what was withdrawn ({entry.entity}) was seen. Build "
                "with the settings and the detector of then."
            )
            return frozenset(at)
        found |= set(now.values())
        found |= {place for place, shot in at.items() if any(one.entity in entities for one in shot.seen)}
    return frozenset(found)


def _entity(shot: Shot, place: Place) -> str | None:
    """The entity whose box is at a place."""
    if not shot.seen:
        return None
    (overlaps,) = iou_matrix(np.array([place.scaled(*shot.size)]), np.array([one.box for one in shot.seen]))
    best = int(overlaps.argmax())
    return shot.seen[best].entity if overlaps[best] >= OVERLAP else None


def places(shots: Sequence[Shot], entity: str) -> list[Place]:
    """Where a film shows an entity."""
    return [
        Place(scene=shot.frame.scene, frame=shot.frame.frame, box=one.box, width=shot.size[0], height=shot.size[1])
        for shot in shots
        for one in shot.seen
        if one.entity == entity
    ]


def withdraw(kept: Path, detections: Path, ids: Path, film: str, entity: str | None) -> int:
    """Remove a film's frames from the table in the folder `kept`, and what was detected in them; gives how many went.

    With `entity`, an ID in the table `ids`, only frames that show it: a later build would not know that they do. What is
    detected goes last: were this interrupted, the next try would know by it who the entity is.
    """
    shown, went = None, set[tuple[str, str]]()
    if entity is not None:
        found = recognized(detections, ids, film).by_film.get(film, {})
        shown = {place for place, seen in found.items() if any(one.entity == entity for one in seen)}

    def stays(of: Any, scene: Any, frame: Any) -> bool:
        place = str(scene), str(frame)
        if str(of) != film or (shown is not None and place not in shown):
            return True
        went.add(place)
        return False

    # The reports of films stay: `storyreason frames` with the same films would cut this one again.
    said = {key: value for key, value in frames.metadata(kept).items() if key.startswith("storyreason.")}
    gone = [one for one in frames.gone(kept) if entity is not None or one[0] != film]

    def staying() -> Iterator[Frame]:
        for one in frames.read(kept):
            if stays(one.film, one.scene, one.frame):
                yield one
            elif entity is not None:
                gone.append((one.film, one.scene, one.frame))

    frames.write(kept / frames.FILE, staying(), lambda: {**said, frames.GONE: json.dumps(gone)})
    _filter(detections, stays)
    return len(went)


def removed(kept: Path, film: str) -> frozenset[At]:
    """The shots that `withdraw` has removed from a film's table with one of the people in them."""
    return frozenset((scene, frame) for of, scene, frame in frames.gone(kept) if of == film)


def _filter(detections: Path, stays: Any) -> None:
    """Keep the rows of a table whose place stays. Written completely or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    new = detections.with_name(f".{detections.name}.unfinished")
    with pq.ParquetFile(detections) as file, pq.ParquetWriter(new, file.schema_arrow) as writer:
        for batch in file.iter_batches(batch_size=4096):
            places = zip(*(batch.column(name).to_pylist() for name in ("film", "scene", "frame")), strict=True)
            writer.write_batch(batch.filter(pa.array([stays(*place) for place in places])))
    new.rename(detections)
