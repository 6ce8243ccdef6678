"""Score answers against references: read each story once, let every score count, keep one row of sums."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from storyreason import analysis, answer, dataset, rules, story
from storyreason.analysis import Analysis
from storyreason.dataset import Example
from storyreason.errors import ScoringError
from storyreason.scoring import grounding, identity, length, mentions, persistence, validity
from storyreason.scoring.matching import pairs, place
from storyreason.scoring.scorecard import Scorecard
from storyreason.story import Story


@dataclass(frozen=True, slots=True)
class Reference:
    """What a story of the data set says. `sizes` are (width, height) of each frame in pixels, in order."""

    story_id: str
    sizes: tuple[tuple[int, int], ...]
    chain_of_thought: str
    story: str

    @classmethod
    def of(cls, example: Example) -> "Reference":
        """The reference of an example of the data set; of its pictures only the sizes are read."""
        return cls(example.story_id, tuple(dataset.sizes(example)), example.chain_of_thought, example.story)


def score(references: Iterable[Reference], predictions: Mapping[str, str]) -> Scorecard:
    """The scorecard of one model's answers, `predictions` by story id.

    An answer that is missing or cannot be read counts as empty: all reference boxes are misses and no rule is kept.
    References may be a generator: only sums are kept. Raises ScoringError on double or unknown story ids, or no story.
    """
    story_ids: list[str] = []
    seen: set[str] = set()
    columns: tuple[str, ...] = ()
    rows: list[np.ndarray] = []
    for reference in references:
        if reference.story_id in seen:
            raise ScoringError(f"The data hold story {reference.story_id!r} twice: story ids must be unique.")
        seen.add(reference.story_id)
        story_ids.append(reference.story_id)
        counts = _count(reference, predictions.get(reference.story_id))
        columns = columns or tuple(counts)
        rows.append(np.fromiter(counts.values(), float, len(counts)))
    unknown = [story_id for story_id in predictions if story_id not in seen]
    if unknown:
        raise ScoringError(
            f"{len(unknown)} of {len(predictions)} predictions are for stories that the data do not hold "
            f"({unknown[0]!r} for one): score them on the split that they were made for."
        )
    if not rows:
        raise ScoringError("There is no story to score: the split is empty.")
    return Scorecard(tuple(story_ids), columns, np.stack(rows))


def _count(reference: Reference, prediction: str | None) -> dict[str, float]:
    """One story's row. What cannot be read is empty: it claims nothing, and every reference box is a miss."""
    told, _ = analysis.read(reference.chain_of_thought)
    told_story, _ = story.read(reference.story)
    read = answer.read(prediction or "")
    claimed, claimed_story = (read.analysis, read.story) if read.readable else (None, None)
    claimed, claimed_story = claimed or Analysis(), claimed_story or Story()
    problems = rules.check(read, reference.sizes) if read.readable else None

    real = place(told, reference.sizes, drop_unusable=True)
    said = place(claimed, reference.sizes)
    candidates = pairs(real, said)
    idtp, matched = identity.match(real, said, candidates)
    return {
        **validity.count(problems, missing=prediction is None),
        **grounding.count(real, said, candidates, frames=len(reference.sizes)),
        **identity.count(real, said, idtp, matched),
        **mentions.count(claimed, claimed_story, said, matched),
        **persistence.count(told, told_story, claimed, claimed_story),
        **length.count(told_story, claimed_story),
    }
