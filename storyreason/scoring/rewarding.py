"""A reward for an answer: parts from 0 to 1, each with its name, and their weighted mean.

For trainers that learn from rewards (GRPO and its kin). Everything is counted as the scorecard counts it, for one story. A
part that a text alone can earn (readable, valid, names, length) is worth little, and no part pays for saying less, for
saying the same again or for tags among filler: `tests/storyreason/scoring/test_rewarding.py` lists the answers that tried.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from storyreason.dataset import Example
from storyreason.format import analysis, answer, grids, rules, story
from storyreason.format.analysis import Analysis
from storyreason.format.story import Mention, Story
from storyreason.scoring import coherence, grounding, identity, length, names
from storyreason.scoring.config import RewardConfig
from storyreason.scoring.counting import Reference
from storyreason.scoring.matching import EntityBox, entity_boxes, pairs

Place = tuple[int, str]
"""An image, and the ID of an entity in it."""


@dataclass(frozen=True, slots=True)
class Reward:
    """`total` is from 0 to 1, and so is each of `parts`, by the names of `RewardConfig`."""

    total: float
    parts: Mapping[str, float]


def reward(
    example: Example | Reference, text: str, config: RewardConfig | None = None, boxes: str = grids.ORIGINAL
) -> Reward:
    """The reward of an answer's text to an example of the data set, or to its reference. `boxes` is what the model's boxes
    count, as in `training.boxes`.

    - `readable`: an analysis can be found; without one every part is 0;
    - `valid`: no rule of severity *error* is broken;
    - `grounding`: F1 of boxes at IoU 0.5; `identity`: IDF1 (both as in the scorecard);
    - `names`: share of the people with one name, the mentions with their entity's name and the pronouns that fit, together;
    - `references`: the places (image and entity) that the story mentions and where a box of the answer matches the
      reference's, as a share of the places that it mentions or, if these are more, that the reference's story mentions:
      what is hallucinated or left out costs, and mentioning a place twice gains nothing. A story that is short of words of
      its own, or has too much filler among them, earns that share of it;
    - `length`: 1 if the number of words, and that of its own, is the reference's within `config.length_band`, 0 at half and
      at twice of it.

    A story's own words are those that do not end a run of four that stood there before.

    Never raises, and takes milliseconds; a reference is parsed once for all of its answers.

    >>> from storyreason import dataset, scoring
    >>> example = dataset.load("data", "test")[0]
    >>> told = answer.join(example.chain_of_thought, example.story)
    >>> round(scoring.reward(example, told).total, 3), scoring.reward(example, "").total
    (1.0, 0.0)
    """
    config = config or RewardConfig()
    reference = Reference.of(example) if isinstance(example, Example) else example
    if boxes != grids.ORIGINAL:
        text = grids.converted(text, [(grids.grid(boxes, size), size) for size in reference.sizes])
    parts = _parts(_prepared(reference), text, config)
    weights = {name: getattr(config, name) for name in parts}
    total = sum(weight * parts[name] for name, weight in weights.items()) / sum(weights.values())
    return Reward(total, parts)


def rewards(
    completions: Sequence[Any],
    chain_of_thought: Sequence[str],
    story: Sequence[str],
    sizes: Sequence[Sequence[Sequence[int]]],
    boxes: Sequence[str] | None = None,
    config: RewardConfig | None = None,
    log_metric: Callable[[str, float], object] | None = None,
    **_: Any,
) -> list[float]:
    """The rewards of a batch, with the arguments that TRL's `GRPOTrainer` gives a reward function.

    `chain_of_thought`, `story` and `sizes` (width and height of each frame, in pixels) are columns of its data set, repeated
    for each completion; so is `boxes`, what the model's boxes count, which may be absent for pixels. A completion is a
    text, or the messages of a conversation, of which the last is the answer.
    `log_metric`, if given, gets the mean of each part as `reward/<part>`.
    """
    found = []
    counting = boxes if boxes is not None else [grids.ORIGINAL] * len(completions)
    rows = zip(completions, chain_of_thought, story, sizes, counting, strict=True)
    for completion, thought, told, of_frames, convention in rows:
        reference = Reference("", tuple((int(w), int(h)) for w, h in of_frames), thought, told)
        found.append(reward(reference, _text(completion), config, convention))
    if log_metric and found:
        for name in found[0].parts:
            log_metric(f"reward/{name}", sum(one.parts[name] for one in found) / len(found))
    return [one.total for one in found]


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What of a reference all of its answers are compared with."""

    sizes: tuple[tuple[int, int], ...]
    boxes: list[EntityBox]
    told: int
    words: int
    own: int
    named: bool


@lru_cache(maxsize=1024)
def _prepared(reference: Reference) -> _Prepared:
    read, _ = analysis.read(reference.chain_of_thought)
    told, _ = story.read(reference.story)
    boxes = entity_boxes(read, reference.sizes, drop_unusable=True)
    listed = {(row.image, row.id) for row in boxes}
    named = _names(read, told) is not None
    return _Prepared(reference.sizes, boxes, len(_places(told) & listed), *_words(told), named)


def _parts(reference: _Prepared, text: str, config: RewardConfig) -> dict[str, float]:
    read = answer.read(text)
    if not read.readable:
        return dict.fromkeys(("readable", "valid", "grounding", "identity", "names", "references", "length"), 0.0)
    told_analysis, told = read.analysis or Analysis(), read.story or Story()
    boxes = entity_boxes(told_analysis, reference.sizes)
    candidates = pairs(reference.boxes, boxes)
    idtp, matched = identity.match(reference.boxes, boxes, candidates)
    of_boxes = grounding.count(reference.boxes, boxes, candidates, frames=len(reference.sizes))
    both = len(reference.boxes) + len(boxes)
    words, own = _words(told)
    seen = {(boxes[pair.predicted].image, boxes[pair.predicted].id) for pair in matched}
    named = _names(told_analysis, told)
    return {
        "readable": 1.0,
        "valid": float(rules.is_valid(rules.check(read, reference.sizes))),
        "grounding": 2 * of_boxes["grounding/matched"] / both if both else 1.0,
        "identity": 2 * idtp / both if both else 1.0,
        "names": named if named is not None else float(not reference.named),
        "references": _references(told, seen, reference) * _prose(words, own, reference, config.length_band),
        "length": min(
            _length(words, reference.words, config.length_band), _length(own, reference.own, config.length_band)
        ),
    }


def _words(told: Story) -> tuple[int, int]:
    """The words of a story, and how many of them are its own."""
    words = length.words(told)
    return len(words), len(words) - coherence.repetition(words)[1]


def _names(read: Analysis, told: Story) -> float | None:
    """The share of all that is counted of names that is right; None if there is nothing to count."""
    counts = names.count(read, told)
    counted = counts["names/entities"] + counts["names/mentions"] + counts["names/pronouns"]
    right = counts["names/one"] + counts["names/agree"] + counts["names/pronouns/agree"]
    return right / counted if counted else None


def _places(told: Story) -> set[Place]:
    return {
        (passage.image, id)
        for passage in told.passages
        for part in passage.parts
        if isinstance(part, Mention)
        for id in part.ids
    }


def _references(told: Story, seen: set[Place], reference: _Prepared) -> float:
    places = _places(told)
    most = max(len(places), reference.told)
    return len(places & seen) / most if most else 1.0


def _prose(words: int, own: int, reference: _Prepared, band: float) -> float:
    """The share of own words among a story's, or among the reference's if these are more: 1 within the band of what the
    reference has."""
    most = max(words, reference.words)
    return min(1.0, own / most * reference.words / reference.own * (1 + band)) if reference.own else 1.0


def _length(words: int, reference: int, band: float) -> float:
    """1 within the band, 0 at half and at twice the reference's words, and linear between."""
    if not reference:
        return float(not words)
    ratio = min(words, reference) / max(words, reference)
    edge = 1 / (1 + band)
    return min(1.0, max(0.0, (ratio - 0.5) / (edge - 0.5)))
