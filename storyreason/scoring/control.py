"""Controls: what remains of a score when an answer is compared with the wrong pictures on purpose.

A model that has never looked at a picture still finds some boxes: people stand in the middle, and skies are above. A
score is worth as much as it loses when the pictures are wrong.

- `other-reference` needs no model: the same answers against the reference of another film's story with as many frames,
  whose boxes are scaled to the frames of the answer. Within each number of frames, stories are in the order of the SHA-256
  of their IDs, and each is compared with the next one of another film in that order; after the last comes the first. A
  story for which there is none is left out and counted.
- `other-film`, `shuffled` and `grey` ask the model again (`storyreason.scoring.wrong`).

A score whose columns compare no boxes is *text-only* by construction (`catalogue.compares_boxes`). Of the others, one is
*image-dependent* if the upper bound of the interval of each of its controls is under a third of its value (where lower is
better: if its value is under a third of the lower bound), and text-only if not. `shuffled` does not take part in that: what
stands in the same place in every frame is found in any order, so it says how much a score depends on the order of the frames.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from typing import Literal, get_args

import numpy as np

from storyreason.dataset import films
from storyreason.format import grids
from storyreason.format.story import Mention, Story
from storyreason.scoring import grounding, identity, paper
from storyreason.scoring.catalogue import SCORES, compares_boxes
from storyreason.scoring.config import Asked
from storyreason.scoring.matching import EntityBox, pairs
from storyreason.scoring.scorecard import Control, Scorecard

Label = Literal["image-dependent", "text-only", "unknown"]

REFERENCE = "other-reference"
CONTROLS: Mapping[str, str] = {
    REFERENCE: "against the references of other films' stories",
    "other-film": "when asked with the frames of another film",
    "shuffled": "when asked with the frames in another order",
    "grey": "when asked with grey frames",
}
"""Every control, and what is wrong in it."""
SHARE = 1 / 3
"""The share of its value that a score may keep in a control."""
assert set(CONTROLS) == {REFERENCE, *get_args(Asked)}


@dataclass(frozen=True, slots=True)
class Kept:
    """What of a scored story is compared again: about ten kilobytes.

    `sizes` are (width, height) of its frames; boxes are in their pixels. `told` counts the IDs in mentions that their
    image's tables list, by image and ID; `unfounded` the hallucinations that no box can change; `mentions` all mentions.
    """

    story_id: str
    sizes: tuple[tuple[int, int], ...]
    reference: Sequence[EntityBox]
    predicted: Sequence[EntityBox]
    told: Counter[tuple[int, str]]
    unfounded: float
    mentions: int
    truths: Sequence[paper.Claim]
    claims: Sequence[paper.Claim] | None
    """None where the paper's protocol is not scored."""


def told(story: Story, rows: Iterable[EntityBox]) -> Counter[tuple[int, str]]:
    """How often a story mentions an ID in an image whose tables list it. `rows` are the boxes of its analysis."""
    present = {(row.image, row.id) for row in rows}
    found: Counter[tuple[int, str]] = Counter()
    for passage in story.passages:
        for part in passage.parts:
            if isinstance(part, Mention):
                found.update(place for id in part.ids if (place := (passage.image, id)) in present)
    return found


def pairing(frames: Mapping[str, int]) -> dict[str, str]:
    """By story, the story of another film with which it is compared; a story that has none is missing.

    `frames` are the number of frames of each story, by ID. The order of the stories does not matter.
    """
    film = films(list(frames))
    rows: dict[int, list[str]] = {}
    for story_id in sorted(frames, key=lambda name: sha256(name.encode()).digest()):
        rows.setdefault(frames[story_id], []).append(story_id)
    found = {}
    for row in rows.values():
        if len({film[story_id] for story_id in row}) > 1:
            for place, story_id in enumerate(row):
                after = chain(row[place + 1 :], row[:place])
                found[story_id] = next(other for other in after if film[other] != film[story_id])
    return found


def against_others(stories: Iterable[Kept]) -> Control | None:
    """The control `other-reference` of a scorecard's stories; None if no story has another to be compared with."""
    kept = {one.story_id: one for one in stories}
    instead = {name: other for name, other in pairing({name: len(one.sizes) for name, one in kept.items()}).items()}
    instead = {name: instead[name] for name in kept if name in instead}
    if not instead:
        return None
    rows = [_against(kept[name], kept[other]) for name, other in instead.items()]
    sums = np.array([list(row.values()) for row in rows], float)
    return Control(instead, Scorecard(tuple(instead), tuple(rows[0]), sums))


def _against(own: Kept, other: Kept) -> dict[str, float]:
    """The counts that compare boxes, of one story's answer and another one's reference."""
    changes = [((max(1, w), max(1, h)), size) for (w, h), size in zip(other.sizes, own.sizes, strict=True)]
    reference = [replace(row, box=grids.convert(row.box, changes[row.image - 1])) for row in other.reference]
    candidates = pairs(reference, own.predicted)
    idtp, matched = identity.match(reference, own.predicted, candidates)
    seen = {(own.predicted[pair.predicted].image, own.predicted[pair.predicted].id) for pair in matched}
    phantom = sum(times for place, times in own.told.items() if place not in seen)
    counts = {
        "stories": 1.0,
        **grounding.count(reference, own.predicted, candidates, frames=len(own.sizes)),
        **identity.count(reference, own.predicted, idtp, matched),
        "references/mentions": own.mentions,
        "references/phantom": phantom,
        "references/hallucinations": own.unfounded + phantom,
    }
    if own.claims is not None:
        truths = [replace(one, box=grids.convert(one.box, changes[one.image - 1])) for one in other.truths]
        counts |= paper.count(truths, own.claims)
    return counts


def compared(card: Scorecard, instead: Mapping[str, str]) -> Control:
    """The control whose answers a scorecard is of: only its columns that compare boxes are kept. `instead` as in `Control`."""
    needed = {column for name, one in SCORES.items() if compares_boxes(name) for column in one.formula.columns}
    places = [place for place, column in enumerate(card.columns) if column in needed]
    columns = tuple(card.columns[place] for place in places)
    return Control(dict(instead), Scorecard(card.story_ids, columns, card.sums[:, places]))


@dataclass(frozen=True, slots=True)
class Controlled:
    """A score beside its control, over the `stories` that have one. `low` and `high` bound the control."""

    name: str
    control: str
    value: float
    controlled: float
    low: float
    high: float
    stories: int

    @property
    def depends(self) -> bool:
        """Whether less than a third of the score remains in the control, whatever chance may add."""
        if SCORES[self.name].better == "lower":
            return self.value < SHARE * self.low
        return self.high < SHARE * self.value

    @property
    def above(self) -> float | None:
        """(score - control) / (1 - control): the share of what the control leaves to gain. None where 1 is not the best."""
        if SCORES[self.name].better != "higher" or self.controlled >= 1:
            return None
        return (self.value - self.controlled) / (1 - self.controlled)


def controlled(
    card: Scorecard, control: str = REFERENCE, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, Controlled]:
    """Every score that compares boxes beside one of its card's controls, by name; none if the card lacks that control."""
    found = card.controls.get(control)
    if found is None:
        return {}
    values, rest = card.only(found.card.story_ids).metrics(), found.card.metrics()
    intervals = found.card.intervals(confidence, resamples, seed)
    return {
        name: Controlled(name, control, values[name], rest[name], *intervals[name], len(found.instead))
        for name in rest
        if name in values and compares_boxes(name)
    }


def labels(card: Scorecard) -> dict[str, Label]:
    """Whether each score of a card depends on the pictures; unknown if it compares boxes and the card has no control, or if
    nothing is there to lose (a score of 0)."""
    found = [controlled(card, name) for name in CONTROLS if name != "shuffled"]
    return {name: _label(name, [one[name] for one in found if name in one]) for name in card.metrics()}


def _label(name: str, controls: Sequence[Controlled]) -> Label:
    if not compares_boxes(name):
        return "text-only"
    if not controls or (SCORES[name].better == "higher" and controls[0].value == 0):
        return "unknown"
    return "image-dependent" if all(one.depends for one in controls) else "text-only"
