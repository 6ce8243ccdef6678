"""One story as the JSON shown by the page: pictures as data URLs, entities with colours, tables, tagged text, problems.

The JavaScript of the page does not parse tags or tables; everything it shows is prepared here:

    {"id": "harbour-2", "images": [{"number": 1, "src": "data:image/png;base64,…", "width": 196, "height": 112}, …],
     "answers": [{"role": "prediction", "title": "Mara: the kite is gone", "readable": true, "valid": false, "raw": "",
       "scores": {},
       "entities": [{"id": "char1", "kind": "char", "name": "Mara", "colour": 0, "twin": "char2", "known": true,
                     "mentions": 7, "images": [{"image": 1, "box": [13, 20, 60, 110], "iou": 0.83, "mentions": 2}, …]}],
       "scenes": [{"image": 1, "setting": "A quay · Calm · Morning", "boxes": [{"id": "char1", "box": […], …}],
                   "tables": [{"title": "Characters", "columns": […], "rows": [{"id": "char1", "cells": […]}]}],
                   "parts": [{"text": "Mara", "kind": "gdo", "ids": ["char1"]}, {"text": " waited."}]}],
       "phases": [{"name": "Introduction", "description": "…", "events": "…", "images": [1]}],
       "problems": [{"rule": "…", "severity": "error", "message": "…", "wanted": "…", "line": 3, …}]}]}

Parts that break a rule have `"problems": [2]`: indices in the problems of their answer.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from typing import TypeVar

from storyreason import pictures
from storyreason.errors import DataError
from storyreason.format import answer as answers
from storyreason.format import rules
from storyreason.format.analysis import Section
from storyreason.format.answer import Answer
from storyreason.format.boxes import clip
from storyreason.format.problems import Problem
from storyreason.format.story import Mention, Passage
from storyreason.format.tables import IMAGE_TABLES, Character, Object, Row, Table
from storyreason.format.words import offsets
from storyreason.page.entities import Json, entities, pair_up
from storyreason.page.titles import title

OfImage = TypeVar("OfImage", Section, Passage)


def view(
    story_id: str,
    images: Sequence[bytes],
    prediction: str | Answer | None = None,
    reference: str | Answer | None = None,
    scores: Mapping[str, float] | None = None,
) -> Json:
    """The JSON of one story.

    `images` are encoded pictures in order. They are embedded as `pictures.shown` gives them: the pixels that models see.
    `prediction` and `reference` are whole answers with `<think>`, as text or parsed; either may be missing. `scores` are
    those of the prediction. Malformed text never raises; an unreadable picture raises DataError.
    """
    frames = [_frame(story_id, number, image) for number, image in enumerate(images, 1)]
    sizes = [(frame["width"], frame["height"]) for frame in frames]
    given = {"prediction": prediction, "reference": reference}
    read = {role: answers.read(one) if isinstance(one, str) else one for role, one in given.items() if one is not None}
    shown = [_answer(role, read[role], sizes) for role in read]
    if len(read) == 2:
        pair_up(shown[0], shown[1], read["prediction"], read["reference"], sizes)
    if prediction is not None and scores:
        shown[0]["scores"] = {name: value for name, value in scores.items() if math.isfinite(value)}
    return {"id": story_id, "images": frames, "answers": shown}


NOT_YET = {
    "answer-unreadable",
    "answer-truncated",
    "image-sections",
    "setting-missing",
    "phase-missing",
    "story-images",
}
"""Rules that every answer breaks until it is complete."""


def so_far(story_id: str, sizes: Sequence[tuple[int, int]], read: Answer) -> Json:
    """The JSON of an answer that is still being generated, without pictures and without problems in `NOT_YET`.

    `sizes` are the (width, height) of the images in pixels.
    """
    frames = [{"number": number, "width": width, "height": height} for number, (width, height) in enumerate(sizes, 1)]
    return {"id": story_id, "images": frames, "answers": [_answer("prediction", read, list(sizes), NOT_YET)]}


def _frame(story_id: str, number: int, image: bytes) -> Json:
    try:
        width, height = pictures.size(image)
        shown, media_type = pictures.shown(image)
    except pictures.PictureError as error:
        raise DataError(
            f"Story {story_id}, image {number}: {len(image)} bytes that are not a readable picture ({error}); use JPEG or PNG."
        ) from error
    return {"number": number, "src": pictures.data_url(shown, media_type), "width": width, "height": height}


def _answer(role: str, read: Answer, sizes: list[tuple[int, int]], ignored: Container[str] = ()) -> Json:
    problems = [problem for problem in rules.check(read, sizes or None) if problem.rule not in ignored]
    sections = read.analysis.sections if read.analysis else ()
    passages = read.story.passages if read.story else ()
    places = _Places(read, problems)
    sections_of, passages_of = _by_image(sections), _by_image(passages)
    numbers = sorted({*range(1, len(sizes) + 1), *sections_of, *passages_of})
    scenes = [
        _scene(
            number,
            sections_of.get(number, []),
            passages_of.get(number, []),
            sizes[number - 1] if 1 <= number <= len(sizes) else None,
            places,
        )
        for number in numbers
    ]
    return {
        "role": role,
        "title": title(read.analysis),
        "readable": read.readable,
        "valid": rules.is_valid(problems),
        "raw": "" if read.readable else read.text,
        "scores": {},
        "entities": entities(sections, passages, scenes),
        "scenes": scenes,
        "phases": [
            {
                "name": phase.name,
                "description": phase.description,
                "events": phase.events,
                "images": list(phase.images),
                "problems": places.of_row(phase.line),
            }
            for phase in (read.analysis.phases if read.analysis else ())
        ],
        "problems": [
            {
                "rule": problem.rule,
                "severity": rules.RULES[problem.rule].severity,
                "wanted": rules.RULES[problem.rule].sentence,
                "message": problem.message,
                "line": problem.line,
                "column": problem.column,
                "image": problem.image,
            }
            for problem in problems
        ],
    }


def _by_image(parts: Sequence[OfImage]) -> dict[int, list[OfImage]]:
    """Groups sections or passages by image, in one pass: an answer may have tens of thousands."""
    groups: dict[int, list[OfImage]] = defaultdict(list)
    for one in parts:
        groups[one.image].append(one)
    return groups


class _Places:
    """Finds the problems of a table row by line, and those of a span of the story by offset."""

    def __init__(self, read: Answer, problems: Sequence[Problem]) -> None:
        self._rows: dict[int, list[int]] = defaultdict(list)
        self._passages = [passage.offset for passage in read.story.passages] if read.story else []
        self._spans: list[tuple[int, int]] = []  # offset in the story, index of the problem; ascending
        self.story = read.story_text if read.story else ""
        starts = [0, *(match.end() for match in re.finditer("\n", read.text))]
        story = len(read.text) - len(self.story)
        for index, problem in enumerate(problems):
            if not 1 <= problem.line <= len(starts):
                continue
            offset = starts[problem.line - 1] + max(problem.column, 1) - 1 - story
            if self.story and offset >= 0:
                self._spans.append((offset, index))
            else:
                self._rows[problem.line].append(index)
        self._spans.sort()

    def of_row(self, line: int) -> list[int]:
        return self._rows.get(line, [])

    def of_span(self, start: int, end: int) -> list[tuple[int, int]]:
        """(offset, index of the problem) for all problems from `start` up to `end`, in characters of the story."""
        return self._spans[bisect_left(self._spans, (start, 0)) : bisect_left(self._spans, (end, 0))]

    def end_of(self, passage: Passage) -> int:
        """The offset where the next passage begins or the story ends."""
        following = bisect_right(self._passages, passage.offset)
        return self._passages[following] if following < len(self._passages) else len(self.story)


def _scene(
    number: int,
    sections: Sequence[Section],
    passages: Sequence[Passage],
    size: tuple[int, int] | None,
    places: _Places,
) -> Json:
    boxes = []
    for row in (row for one in sections for row in one.entities):
        box = clip(row.box, *size) if row.box and size else None
        if box and box.x1 < box.x2 and box.y1 < box.y2:
            boxes.append({"id": row.id, "box": list(box), "problems": places.of_row(row.line)})
    settings = [row for one in sections for row in one.settings]
    location = next(
        (row for row in settings if row.element.casefold() == "location"), settings[0] if settings else None
    )
    return {
        "image": number,
        "setting": " · ".join(_filled(location.description, location.mood, location.time)) if location else "",
        "boxes": boxes,
        "tables": _tables(sections, places),
        "parts": [part for passage in passages for part in _parts(passage, places)],
    }


def _filled(*cells: str) -> list[str]:
    return [cell for cell in cells if cell.strip(" -–")]


def _tables(sections: Sequence[Section], places: _Places) -> list[Json]:
    return [
        {"title": table.title, "columns": _columns(table), "rows": [_row(table, row, places) for row in rows]}
        for one in sections
        for table in IMAGE_TABLES
        if (rows := one.rows(table))
    ]


def _columns(table: Table[Row]) -> list[str]:
    """The column names, with `Character ID` shortened to `ID`."""
    first, *others = table.columns
    return [first.rpartition(" ")[2], *others]


def _row(table: Table[Row], row: Row, places: _Places) -> Json:
    entity = {"id": row.id} if isinstance(row, (Character, Object)) else {}
    return {**entity, "cells": table.cells(row), "problems": places.of_row(row.line)}


_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def _parts(passage: Passage, places: _Places) -> list[Json]:
    """The text of one image as spans. A plain word that breaks a rule, such as an untagged pronoun, is a separate span."""
    shown: list[Json] = []
    starts = offsets(passage, places.story)
    ends = [*starts, places.end_of(passage)][1:]
    for part, start, end in zip(passage.parts, starts, ends, strict=True):
        if isinstance(part, Mention):
            found = [index for _, index in places.of_span(start, end)]
            shown.append({"text": part.text, "kind": part.kind, "ids": list(part.ids), "problems": found})
            continue
        words: dict[tuple[int, int], list[int]] = defaultdict(list)
        for offset, index in places.of_span(start, start + len(part)):
            if word := _WORD.match(part, offset - start):
                words[word.span()].append(index)
        done = 0
        for (first, last), found in sorted(words.items()):
            shown += [{"text": part[done:first]}, {"text": part[first:last], "problems": found}]
            done = last
        shown.append({"text": part[done:]})
    return [part for part in shown if part["text"] or part.get("ids")]
