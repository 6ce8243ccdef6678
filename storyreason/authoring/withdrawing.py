"""Withdrawal from the tables that stories are made of: frames, and the boxes and embeddings of what was detected in them."""

from pathlib import Path
from typing import Any

from storyreason.authoring.windows import recognized
from storyreason.perception import frames


def withdraw(kept: Path, detections: Path, ids: Path, film: str, entity: str | None) -> int:
    """Remove a film's frames from the table in the folder `kept`, and what was detected in them; gives how many went.

    With `entity`, an ID in the table `ids`, only frames that show it: a later build would not know that they do.
    """
    shown = None
    if entity is not None:
        found = recognized(detections, ids, film).by_film.get(film, {})
        shown = {place for place, seen in found.items() if any(one.entity == entity for one in seen)}

    def stays(of: Any, scene: Any, frame: Any) -> bool:
        return str(of) != film or (shown is not None and (str(scene), str(frame)) not in shown)

    before = frames.films(kept).get(film, 0)
    # The reports of films stay: `storyreason frames` with the same films would cut this one again.
    said = {key: value for key, value in frames.metadata(kept).items() if key.startswith("storyreason.")}
    staying = (one for one in frames.read(kept) if stays(one.film, one.scene, one.frame))
    frames.write(kept / frames.FILE, staying, lambda: said)
    _filter(detections, stays)
    return before - frames.films(kept).get(film, 0)


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
