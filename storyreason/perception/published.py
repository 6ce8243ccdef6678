"""The identity rule of the published data set's chain (StoryReasoning, its code of 2025), kept for comparison.

Within each story and label: take a detection; scan the rest, in order, for one that fits the group, and begin the scan again
after each that does. A detection fits by its similarity (1 + cosine) / 2 to every member: by faces if it and any member have
one, else by looks; the 75th percentile must reach a threshold and lie at most 1.5 standard deviations below the mean. Where
the published code depends on hash seeds, detections are taken by frame and ID.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from storyreason.perception.film import Film, kinds
from storyreason.perception.identity import Entities, name

WINDOW = 5
"""Frames that a story has at least."""


@dataclass(frozen=True)
class Rule:
    """The thresholds; the defaults are the published ones."""

    face: float = 0.4
    look: float = 0.9
    face_height: float = 112.0
    """Pixels: smaller faces do not count."""


def identify(film: Film, rule: Rule | None = None, stories: Sequence[np.ndarray] | None = None) -> Entities:
    """The entities of a film by the published rule, for each story apart. No merge has a probability.

    `stories` are the detections of each, by their places in the film; the default is `windows`.
    """
    rule, groups = rule or Rule(), np.arange(len(film))
    for story in windows(film) if stories is None else stories:
        of_label: dict[str, list[int]] = defaultdict(list)
        for at in story.tolist():
            of_label[film.labels[at]].append(at)
        for rows in map(np.array, of_label.values()):
            for group in _groups(film, rows, rule):
                groups[rows[group]] = rows[group].min()
    return Entities(name(film, groups), np.full(len(film), np.nan, np.float32))


def windows(film: Film) -> list[np.ndarray]:
    """The stories of a film: whole scenes until there are five frames and a person. What is left over is one of its own."""
    is_person = np.array([kind == "char" for kind in kinds(film.labels)])
    found: list[np.ndarray] = []
    scenes: list[np.ndarray] = []
    for scene in range(int(film.scenes.max()) + 1):
        scenes.append(np.flatnonzero(film.scenes == scene))
        story = np.concatenate(scenes)
        if len(np.unique(film.frames[story])) >= WINDOW and is_person[story].any():
            found.append(story)
            scenes = []
    return [*found, np.concatenate(scenes)] if scenes else found


def _groups(film: Film, rows: np.ndarray, rule: Rule) -> Iterator[list[int]]:
    """The groups of the detections of one story and label, as places in `rows`."""
    faces, looks = ((1 + part[rows] @ part[rows].T) / 2 for part in (film.faces, film.looks))
    has_face = film.face_heights[rows] >= max(rule.face_height, 1)
    has_look = film.looks[rows].any(axis=1)
    frames, rest = film.frames[rows], np.arange(len(rows))
    while len(rest):
        group, rest = [int(rest[0])], rest[1:]
        while len(rest):
            by_face = has_face[rest] & has_face[group].any()
            fits = np.where(
                by_face,
                _similar(faces[rest][:, [one for one in group if has_face[one]]], rule.face),
                has_look[rest] & _similar(looks[rest][:, [one for one in group if has_look[one]]], rule.look),
            ) & ~np.isin(frames[rest], frames[group])
            if not fits.any():
                break
            first = int(np.argmax(fits))
            group.append(int(rest[first]))
            rest = np.delete(rest, first)
        yield group


def _similar(values: np.ndarray, threshold: float) -> np.ndarray:
    """Whether each row, of similarities to a group's members, is high enough and even enough."""
    if not values.shape[1]:
        return np.zeros(len(values), bool)
    high = np.percentile(values, 75, axis=1)
    fits: np.ndarray = (high >= threshold) & (values.mean(axis=1) - high <= 1.5 * values.std(axis=1))
    return fits
