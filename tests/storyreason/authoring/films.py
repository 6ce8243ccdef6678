"""Films of the sample world as frames, detections and entities, whose truth is known."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storyreason import dataset, sample
from storyreason.format import analysis
from storyreason.format.kinds import kind_of
from storyreason.perception import frames
from storyreason.perception.frames import Frame
from storyreason.pictures import canonical, size

LABELS = {"char": "person", "obj": "umbrella", "lm": "landmark: the old mill", "bg": "background: sky"}


def write(folder: Path, films: int = 1, most: int | None = None) -> Path:
    """`frames.parquet`, `detections.parquet` and `ids.parquet` of some sample films: each story a scene of its film.

    `most` is how many frames a scene has at most.
    """
    kept, detections, ids = list[Frame](), list[dict[str, Any]](), list[dict[str, Any]]()
    for example in sample.examples("test", films=films):
        _add(example, most, kept, detections, ids)
    frames.write(folder / frames.FILE, kept)
    for name, rows in (("detections", detections), ("ids", ids)):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


def _add(
    example: dataset.Example,
    most: int | None,
    kept: list[Frame],
    detections: list[dict[str, Any]],
    ids: list[dict[str, Any]],
) -> None:
    film, _, scene = example.story_id.rpartition("-")
    read, _ = analysis.read(example.chain_of_thought)
    for section, image in list(zip(read.sections, example.images, strict=True))[:most]:
        number, jpeg = 100 * int(scene) + section.image, canonical(image)
        kept.append(Frame(film, int(scene), number, number / 24, f"{film}.mp4", *size(jpeg), jpeg))
        for row in section.entities:
            kind = kind_of(row.id)
            if kind is None or row.box is None:
                continue
            place = {"film": film, "scene": int(scene), "frame": number, "detection": len(detections)}
            corners = dict(zip(("x1", "y1", "x2", "y2"), map(float, row.box), strict=True))
            rest = {"score": 1.0, "face": None, "face_height": None, "look": [1.0, 0.5]}
            ids.append({"film": film, "detection": len(detections), "entity": row.id, "probability": None})
            detections.append({**place, "label": LABELS[kind], **corners, **rest})
