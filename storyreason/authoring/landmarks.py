"""Landmarks: a model names boxes of buildings and places, under a JSON schema, before entities are recognized again.

A box that is named gets the label `landmark: the old mill`, so that `identify` makes it an entity of its own kind.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storyreason.authoring import prompting
from storyreason.authoring.calls import Author
from storyreason.authoring.config import AuthoringConfig
from storyreason.format.problems import Problem, quote
from storyreason.perception.frames import Frame

LABEL = "landmark: "
LONGEST = 60
"""Characters of a name."""


@dataclass(frozen=True)
class Candidate:
    """A box that may be a landmark's: its place in the table, what the detector calls it, and its corners in pixels."""

    row: int
    label: str
    box: tuple[int, int, int, int]


def candidates(detections: Path, film: str, labels: Iterable[str]) -> dict[tuple[str, str], list[Candidate]]:
    """The boxes of a film with these labels, by scene and frame."""
    import pyarrow.parquet as pq

    columns = ("film", "scene", "frame", "label", "x1", "y1", "x2", "y2")
    wanted = {label.lower() for label in labels}
    found: dict[tuple[str, str], list[Candidate]] = {}
    for number, row in enumerate(pq.read_table(detections, columns=list(columns)).to_pylist()):
        if str(row["film"]) == film and str(row["label"]).lower() in wanted:
            x1, y1, x2, y2 = (round(row[corner]) for corner in columns[-4:])
            place = (str(row["scene"]), str(row["frame"]))
            found.setdefault(place, []).append(Candidate(number, row["label"], (x1, y1, x2, y2)))
    return found


def name(
    author: Author,
    config: AuthoringConfig,
    frames: Iterable[Frame],
    found: Mapping[tuple[str, str], Sequence[Candidate]],
    say: Callable[[str], object] = lambda _: None,
) -> dict[int, str]:
    """The names of a film's landmarks, by their rows in the table of detections.

    A frame whose reply is wrong after `config.attempts` has none, and is told. Raises as `Author.ask` does.
    """
    names: dict[int, str] = {}
    for frame in frames:
        boxes = found.get((str(frame.scene), str(frame.frame)))
        if not boxes:
            continue
        told = _ask(author, config, frame, boxes, list(dict.fromkeys(names.values())))
        if isinstance(told, Problem):
            say(f"{frame.place} has no landmarks: {told.rule}: {told.message}")
        else:
            names |= {boxes[number - 1].row: called for number, called in told.items()}
    return names


def _ask(
    author: Author, config: AuthoringConfig, frame: Frame, boxes: Sequence[Candidate], known: Sequence[str]
) -> dict[int, str] | Problem:
    asked = prompting.for_landmarks(frame.image, [(one.label, one.box) for one in boxes], known)
    messages, fault = asked, Problem("none", "")
    for attempt in range(config.attempts):
        reply = author.ask(messages, None, attempt, schema(len(boxes)))
        if reply.refused:
            return Problem("refused", reply.refused)
        told = read(reply.text, len(boxes))
        if not isinstance(told, Problem):
            return told
        fault = told
        messages = prompting.again(asked, reply.text, [fault])
    return fault


def schema(count: int) -> dict[str, Any]:
    """The JSON schema of a reply about so many boxes."""
    item = {
        "type": "object",
        "properties": {
            "box": {"type": "integer", "enum": list(range(1, count + 1))},
            "name": {"type": "string", "maxLength": LONGEST},
        },
        "required": ["box", "name"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"landmarks": {"type": "array", "items": item}},
        "required": ["landmarks"],
        "additionalProperties": False,
    }


def read(text: str, count: int) -> dict[int, str] | Problem:
    """The names in a reply by the numbers of their boxes, or what is wrong with it."""
    try:
        items = [(one["box"], " ".join(one["name"].split())) for one in json.loads(text)["landmarks"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Problem(
            "landmarks-unreadable", 'The reply is not JSON as asked for: {"landmarks": [{"box": 1, "name": "…"}]}.'
        )
    for box, called in items:
        if not isinstance(box, int) or not 1 <= box <= count:
            return Problem(
                "landmark-box", f"There is no box {quote(str(box))}: the boxes are numbered from 1 to {count}."
            )
        if not called or len(called) > LONGEST or set(called) & set(":|<>"):
            return Problem("landmark-name", f"{quote(called)} is not a short name without : | < and >.")
    return dict(items)


def write(detections: Path, names: Mapping[int, str], out: Path) -> None:
    """Write the table of detections with the labels of what was named; everything else stays as it is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    new, start = out.with_name(f".{out.name}.unfinished"), 0
    with pq.ParquetFile(detections) as file, pq.ParquetWriter(new, file.schema_arrow) as writer:
        at = file.schema_arrow.get_field_index("label")
        for batch in file.iter_batches(batch_size=4096):
            labels = batch.column(at).to_pylist()
            for row in range(batch.num_rows):
                if called := names.get(start + row):
                    labels[row] = LABEL + called
            field = batch.schema.field(at)
            writer.write_batch(batch.set_column(at, field, pa.array(labels, field.type)))
            start += batch.num_rows
    new.rename(out)
