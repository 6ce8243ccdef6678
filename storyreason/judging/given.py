"""What a judge is given: predictions and stories with planted faults, and people's ratings."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from storyreason import dataset
from storyreason import predictions as answers
from storyreason.dataset import Example
from storyreason.errors import DataError
from storyreason.format import answer
from storyreason.format.plain import plain
from storyreason.judging.asking import Candidate
from storyreason.judging.faults import COUNTS, plant
from storyreason.judging.rubric import LEAST, MOST, RUBRICS


def examples(data: Path, split: str, stories: int | None) -> list[Example]:
    """The first examples of a split, or all. Raises DataError."""
    found = dataset.load(data, split)
    return [found[place] for place in range(min(len(found), stories or len(found)))]


def of_predictions(path: Path, against: Iterable[Example]) -> list[Candidate]:
    """Predictions beside the data's stories; a story without one counts as silent. Raises DataError if none has one."""
    told, known = answers.load(path), {one.story_id: one for one in against}
    if not told.keys() & known.keys():
        raise DataError(f"{path} answers none of the {len(known)} stories: name the data and split that it belongs to.")
    return [
        Candidate(name, name, one.images, answer.read(told.get(name, "")).story_text, one.story)
        for name, one in known.items()
    ]


def with_faults(among: Iterable[Example], count: int, seed: int) -> list[Candidate]:
    """The data's own stories with each number of planted faults (`COUNTS`), beside themselves: `count` of those that can have
    them."""
    found: list[Candidate] = []
    for one in among:
        if len(found) == count * len(COUNTS):
            break
        made = {faults: plant(one.story, faults, seed) for faults in COUNTS}
        if None not in made.values():
            found += [
                Candidate(
                    f"{one.story_id} with {faults} faults", one.story_id, one.images, text or "", one.story, faults
                )
                for faults, text in made.items()
            ]
    return found


def ratings(path: Path) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """People's ratings by rater, story and rubric, from a CSV file with `rater`, `story_id` and rubrics; a cell may be empty.

    Raises DataError that names file, line and cell.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(plain(path.read_bytes().decode()), newline="")))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}).") from None
    columns: Sequence[str] = list(rows[0]) if rows else []
    rated = [name for name in RUBRICS if name in columns]
    if not rated or not {"rater", "story_id"} <= set(columns):
        raise DataError(
            f"{path} has the columns {', '.join(columns) or 'of no row'}; wanted rater, story_id and some of "
            f"{', '.join(RUBRICS)}."
        )
    found: dict[str, dict[str, dict[str, float]]] = {}
    for number, row in enumerate(rows, 2):
        for name in rated:
            if cell := (row[name] or "").strip():
                of = found.setdefault(row["rater"], {}).setdefault(row["story_id"], {})
                of[name] = _rating(cell, f"{path}, line {number}, {name}")
    return found


def _rating(cell: str, place: str) -> float:
    try:
        rating = float(cell)
    except ValueError:
        rating = float("nan")
    if not LEAST <= rating <= MOST:
        raise DataError(f"{place} is {cell!r}; wanted a number from {LEAST} to {MOST}, or nothing.")
    return rating
