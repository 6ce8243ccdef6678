"""How probable it is that two groups of detections show the same entity.

The evidence is what the groups' faces and looks have in common, how much of either there is, and whether they are compared
within a scene or over the film. A logistic regression makes it a probability; `benchmarks/identity.py calibrate` fits it.
"""

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Literal

import numpy as np

from storyreason.perception.film import Film, kinds

if TYPE_CHECKING:
    from collections.abc import Sequence

Stage = Literal["scene", "film"]
STAGES: tuple[Stage, ...] = ("scene", "film")
CASES = ("face and look", "look", "face", "thing")
"""What a pair of groups can be compared by: people by what both have, things by their looks."""
FEATURES = (
    *("one", "face", "faces", "face * faces", "face same", "face again"),
    *("look", "looks", "look * looks", "look same", "look again"),
)
"""The numbers that `Groups.compare` gives for a pair. `face` and `look` are mean cosines, 0 at the level of different
entities; `faces` and `looks` say how much there is to compare. `same` and `again` are what such a cosine is in this film for
the same entity, in one scene and in another: blurred faces are judged by another measure than sharp ones."""
HALF_QUALITY = 60.0
"""Pixels: the height of a face below which its embedding says little."""
PRIOR_PAIRS = 3.0
"""How many pairs of different entities a guess of their level counts like."""
USUAL, USUAL_COUNT = 0.6, 10
"""What `same` and `again` are in a usual film, and how many detections that counts like."""
MOST_OF_A_SCENE = 200
"""Detections of one scene and label that `same` looks at, at most (about)."""
MOST_OF_A_FILM = 1500
"""Detections that `again` looks at, at most (about)."""
LOWEST, NONE = -0.5, -2.0
"""The lowest level, and what stands for a cosine that there is not."""
SAMPLE = 20_000
"""Pairs that a level is estimated from, at most."""


@dataclass(frozen=True)
class Calibration:
    """Coefficients of the features for each stage and case, of shape [2, 4, 11]."""

    coefficients: np.ndarray

    def logits(self, stage: Stage, case: np.ndarray, features: np.ndarray) -> np.ndarray:
        """The logit of the probability for each pair; -inf for one that cannot be compared (case -1).

        Rounded, so that what is equal but for the last digits of a sum is equal.
        """
        weights = self.coefficients[STAGES.index(stage)][case]
        found: np.ndarray = np.where(case < 0, -np.inf, np.round((weights * features).sum(axis=-1), 4))
        return found


@functools.cache
def calibration() -> Calibration:
    """The calibration that comes with the package; `source` in its file says what it was fitted on."""
    stored = json.loads(resources.files(__package__).joinpath("calibration.json").read_text())
    return Calibration(np.array([[stored["coefficients"][stage][case] for case in CASES] for stage in STAGES]))


class Groups:
    """Groups of the detections of a film, named by their first detection; at first each is a group of its own.

    Memory: one row of each embedding for each detection, and nothing for pairs.
    """

    def __init__(self, film: Film) -> None:
        people = np.array([kind == "char" for kind in kinds(film.labels)])
        codes = {label: code for code, label in enumerate(dict.fromkeys(film.labels))}
        self.labels = np.array([codes[label] for label in film.labels])
        self.is_thing = ~people
        quality: np.ndarray = np.where(people, (film.face_heights / (film.face_heights + HALF_QUALITY)) ** 2, 0)
        self.face_weights: np.ndarray = quality.astype(np.float32)
        self.look_weights: np.ndarray = np.any(film.looks, axis=1).astype(np.float32)
        self._measures = {
            stage: (
                _measures(film, film.faces, self.face_weights > 0, self.labels, people, stage),
                _measures(film, film.looks, self.look_weights > 0, self.labels, people, stage),
            )
            for stage in STAGES
        }
        self.measure("scene")
        # Sums over the members of a group.
        self.faces: np.ndarray = film.faces * self.face_weights[:, None]
        self.looks = film.looks.copy()

    def measure(self, stage: Stage) -> None:
        """Take cosines from now on for what they mean within scenes, or over the film."""
        self.face_measures, self.look_measures = self._measures[stage]

    def add(self, group: int, other: int) -> None:
        """Add the sums of one group to those of another."""
        for sums in (self.faces, self.looks, self.face_weights, self.look_weights):
            sums[group] += sums[other]

    def compare(self, i: "np.ndarray | int", j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The case (an index of CASES, or -1) and the features, of shape [n, 11], of pairs of groups of one label.

        `i` is one group or as many as `j`.
        """
        face, faces = self._similarity(self.faces, self.face_weights, self.face_measures.level, i, j)
        look, looks = self._similarity(self.looks, self.look_weights, self.look_measures.level, i, j)
        has_face, has_look = np.isfinite(faces), np.isfinite(looks)
        case = np.select([self.is_thing[j] & has_look, has_face & has_look, has_look, has_face], [3, 0, 1, 2], -1)
        features = [np.ones(len(j))]
        for has, value, amount, measures in (
            (has_face, face, faces, self.face_measures),
            (has_look, look, looks, self.look_measures),
        ):
            amount = np.where(has, amount, 0)
            features += [value, amount, value * amount, has * measures.same[j], has * measures.again[j]]
        return case, np.stack(features, axis=-1)

    @staticmethod
    def _similarity(
        sums: np.ndarray, weights: np.ndarray, levels: np.ndarray, i: "np.ndarray | int", j: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The mean cosine of the pairs' members from 0 (different) to 1 (equal), and the logarithm of their harmonic weight.

        0 and -inf where one of two has no embedding.
        """
        product = weights[i] * weights[j]
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine = np.where(product > 0, dots(sums, i, j) / product, 0)
            amount = np.log(product / (weights[i] + weights[j]))
        level = levels[j]
        return np.where(product > 0, (cosine - level) / (1 - level), 0), np.where(product > 0, amount, -np.inf)


def dots(vectors: np.ndarray, i: "np.ndarray | int", j: np.ndarray) -> np.ndarray:
    """The products of pairs of rows, of shape [n]; `i` is one row or as many as `j`."""
    if not isinstance(i, np.ndarray):
        return np.asarray(vectors[j] @ vectors[i], np.float64)
    found = np.empty(len(j))
    for start in range(0, len(j), 4096):
        part = slice(start, start + 4096)
        found[part] = np.einsum("nd,nd->n", vectors[i[part]], vectors[j[part]])
    return found


@dataclass(frozen=True)
class Measures:
    """What cosines mean in a film, for each detection, of shape [n]."""

    level: np.ndarray
    """The cosine of different entities of its label."""
    same: np.ndarray
    """`same` of FEATURES."""
    again: np.ndarray
    """`again` of FEATURES; at the first stage, `same`."""


def _measures(
    film: Film, vectors: np.ndarray, has: np.ndarray, labels: np.ndarray, people: np.ndarray, stage: Stage
) -> Measures:
    """They depend on the embedding model and on the film's light and grading. People and things are measured apart."""
    found = Measures(np.zeros(len(film)), np.full(len(film), USUAL), np.full(len(film), USUAL))
    for rows in (np.flatnonzero(has & people), np.flatnonzero(has & ~people)):
        best = best_again = _best_in_scene(film, vectors, rows, labels)
        level = _levels(film, vectors, rows, labels, best)
        if stage == "film":
            level, best_again = _over_the_film(film, vectors, rows, labels, level)
        found.level[rows] = level
        found.same[rows] = _middle(best, level)
        found.again[rows] = _middle(best_again, level)
    return found


def _middle(best: np.ndarray, level: np.ndarray) -> float:
    """The median of the highest cosines, from 0 at the level of different entities to 1; few count as much as a usual one."""
    seen = best > NONE
    alike = (best[seen] - level[seen]) / (1 - level[seen])
    return float((np.median(alike) if len(alike) else 0) * len(alike) + USUAL * USUAL_COUNT) / (
        len(alike) + USUAL_COUNT
    )


def _levels(film: Film, vectors: np.ndarray, rows: np.ndarray, labels: np.ndarray, best: np.ndarray) -> np.ndarray:
    """The cosine of different entities of its label, for each of these detections.

    Two detections of one frame are different, so these pairs tell it; the fewer of them a label has, the more those of all
    labels count. Where there are hardly any, it is a low cosine of any two, or lower, so that the most similar ones of a
    scene are as similar as usual: a film that shows one person alone has no other cosines.
    """
    i, j = _same_frame(film.frames[rows], labels[rows])
    cosines, of_label = dots(vectors, rows[i], rows[j]), labels[rows[i]]
    seen = best[best > NONE]
    guess = min(_low(vectors, rows), (np.median(seen) - USUAL) / (1 - USUAL) if len(seen) else 1.0)
    overall = (cosines.sum() + PRIOR_PAIRS * guess) / (len(i) + PRIOR_PAIRS)
    count = int(labels.max()) + 1
    sums = np.bincount(of_label, cosines, count) + PRIOR_PAIRS * overall
    level: np.ndarray = np.clip(sums / (np.bincount(of_label, minlength=count) + PRIOR_PAIRS), LOWEST, 0.95)
    found: np.ndarray = level[labels[rows]]
    return found


def _over_the_film(
    film: Film, vectors: np.ndarray, rows: np.ndarray, labels: np.ndarray, level: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The level and the highest cosines of these detections, compared with those of other scenes (NONE without any).

    Where light differs from scene to scene, different entities are less alike there than in one frame: the level is then
    the median of all pairs. Only some of many detections are looked at.
    """
    level, best = level.copy(), np.full(len(rows), NONE)
    some = np.arange(len(rows))[:: max(1, len(rows) // MOST_OF_A_FILM)]
    chosen = rows[some]
    cosines = vectors[chosen] @ vectors[chosen].T
    scenes, kind = film.scenes[chosen], labels[chosen]
    comparable = (kind[:, None] == kind) & (scenes[:, None] != scenes)
    best[some] = np.where(comparable, cosines, NONE).max(axis=1, initial=NONE)
    for label in np.unique(kind):
        of_label = np.ix_(kind == label, kind == label)
        pairs = cosines[of_label][comparable[of_label]]
        if len(pairs):
            here = labels[rows] == label
            level[here] = np.minimum(level[here], max(LOWEST, float(np.median(pairs))))
    return level, best


def _best_in_scene(film: Film, vectors: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each of these detections its highest cosine to another of its scene and label in another frame; NONE without
    one."""
    found = np.full(len(rows), NONE)
    scenes, kinds = film.scenes[rows], labels[rows]
    order = np.lexsort((kinds, scenes))
    new = (np.diff(kinds[order]) != 0) | (np.diff(scenes[order]) != 0)
    for part in np.split(order, np.flatnonzero(new) + 1):
        part = np.sort(part)[:: max(1, len(part) // MOST_OF_A_SCENE)]
        chosen, frames = vectors[rows[part]], film.frames[rows[part]]
        found[part] = np.where(frames[:, None] == frames, NONE, chosen @ chosen.T).max(axis=1, initial=NONE)
    return found


def _low(vectors: np.ndarray, rows: np.ndarray) -> float:
    """A low cosine of any two; 0 if there are none."""
    pairs = [np.stack([rows[:-shift], rows[shift:]]) for shift in (1, 3, 10, 30, 100, 300) if shift < len(rows)]
    if not pairs:
        return 0.0
    i, j = np.concatenate(pairs, axis=1)[:, :: max(1, sum(part.shape[1] for part in pairs) // SAMPLE)]
    return float(np.quantile(dots(vectors, i, j), 0.25))


def _same_frame(frames: np.ndarray, labels: np.ndarray) -> "tuple[np.ndarray, np.ndarray]":
    """Pairs of rows with the same frame and label, evenly thinned out."""
    order = np.lexsort((labels, frames))
    frames, labels = frames[order], labels[order]
    found: list[Sequence[np.ndarray]] = [(order[:0], order[:0])]
    shift = 1
    while shift < len(order):
        same = (frames[shift:] == frames[:-shift]) & (labels[shift:] == labels[:-shift])
        if not same.any():
            break
        found.append((order[:-shift][same], order[shift:][same]))
        shift += 1
    i, j = (np.concatenate(part) for part in zip(*found, strict=True))
    step = max(1, len(i) // SAMPLE)
    return i[::step], j[::step]
