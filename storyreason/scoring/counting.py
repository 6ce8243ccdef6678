"""Scoring answers against references: each story is parsed once, counted by every module, and kept as a row of sums."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np

from storyreason import dataset
from storyreason.dataset import Example
from storyreason.errors import ScoringError
from storyreason.format import analysis, answer, rules, story
from storyreason.format.analysis import Analysis
from storyreason.format.answer import Answer
from storyreason.format.story import Story
from storyreason.scoring import (
    coherence,
    control,
    grounding,
    identity,
    language,
    length,
    mentions,
    names,
    paper,
    persistence,
    validity,
)
from storyreason.scoring.java import Meteor
from storyreason.scoring.matching import entity_boxes, pairs
from storyreason.scoring.scorecard import Scorecard

Protocol = Literal["strict", "paper"]
_BLOCK = 1000
"""How many stories are held in memory at a time, and tokenized by one Java process."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The reference of a story. `sizes` are the (width, height) of each frame in pixels, in order."""

    story_id: str
    sizes: tuple[tuple[int, int], ...]
    chain_of_thought: str
    story: str

    @classmethod
    def of(cls, example: Example) -> "Reference":
        """The reference of an example of the data set; its pictures are not decoded, only their sizes are read."""
        return cls(example.story_id, tuple(dataset.sizes(example)), example.chain_of_thought, example.story)


def score(
    references: Iterable[Reference],
    predictions: Mapping[str, str],
    protocols: Sequence[Protocol] = ("strict",),
    meteor: bool = True,
    grounded: bool = False,
) -> Scorecard:
    """The scorecard of a model's answers, `predictions` by story ID.

    In the strict protocol, an answer that is missing or unreadable counts as empty: every reference box is missed and
    every rule broken. The paper's protocol, which includes the language metrics, needs Java; METEOR takes 62 ms a story
    and can be omitted. `grounded` says that the answers were decoded grounded, which makes errors of some warnings
    (`rules.GROUNDED`). References may be a generator and predictions a lazy mapping: only a block of stories is in
    memory at a time; only sums and, in the strict protocol, boxes are kept, which the control compares with another film's
    (`storyreason.scoring.control`). Raises ScoringError for a repeated or unknown story ID, or if there is no
    story.
    """
    story_ids: list[str] = []
    columns: tuple[str, ...] = ()
    rows: list[np.ndarray] = []
    kept: list[control.Kept] = []
    with ExitStack() as stack:
        words = language.Counting(stack.enter_context(Meteor()) if meteor else None) if "paper" in protocols else None
        for block in _blocks(references):
            parsed = [_parse(reference, predictions.get(reference.story_id)) for reference in block]
            texts = words.begin([(pair.reference.story, pair.answer.story_text) for pair in parsed]) if words else None
            found: list[dict[str, float]] = [{"stories": 1, "missing": pair.missing} for pair in parsed]
            if "strict" in protocols:
                scored = [_strict(pair, grounded, "paper" in protocols) for pair in parsed]
                found = [counts | of_story for counts, (of_story, _) in zip(found, scored, strict=True)]
                kept += [of_story for _, of_story in scored]
            if words and texts:
                paired = zip(found, parsed, words.count(texts), strict=True)
                found = [counts | _paper(pair) | of_words for counts, pair, of_words in paired]
            columns = tuple(found[0])
            rows += [np.fromiter(counts.values(), float, len(counts)) for counts in found]
            story_ids += [reference.story_id for reference in block]
        late = words.close() if words else {}
    if not rows:
        raise ScoringError("There is no story to score: the split is empty.")
    _refuse_unknown(predictions, set(story_ids))
    sums = np.column_stack([np.stack(rows), *late.values()])
    wrong = control.against_others(kept)
    return Scorecard(tuple(story_ids), (*columns, *late), sums, {control.REFERENCE: wrong} if wrong else {})


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A reference and the answer to it, both parsed once for all protocols."""

    reference: Reference
    reference_analysis: Analysis
    answer: Answer
    missing: bool


def _parse(reference: Reference, prediction: str | None) -> _Parsed:
    reference_analysis, _ = analysis.read(reference.chain_of_thought)
    return _Parsed(reference, reference_analysis, answer.read(prediction or ""), prediction is None)


def _strict(pair: _Parsed, grounded: bool, of_paper: bool) -> tuple[dict[str, float], control.Kept]:
    """One story's counts in the strict protocol, and what its control needs. An unreadable answer counts as empty."""
    reference, reference_analysis, read = pair.reference, pair.reference_analysis, pair.answer
    reference_story, _ = story.read(reference.story)
    predicted, predicted_story = (read.analysis, read.story) if read.readable else (None, None)
    predicted, predicted_story = predicted or Analysis(), predicted_story or Story()
    problems = rules.check(read, reference.sizes) if read.readable else None

    reference_boxes = entity_boxes(reference_analysis, reference.sizes, drop_unusable=True)
    predicted_boxes = entity_boxes(predicted, reference.sizes)
    candidates = pairs(reference_boxes, predicted_boxes)
    idtp, matched = identity.match(reference_boxes, predicted_boxes, candidates)
    counts = {
        **validity.count(problems, pair.missing, grounded),
        **grounding.count(reference_boxes, predicted_boxes, candidates, frames=len(reference.sizes)),
        **identity.count(reference_boxes, predicted_boxes, idtp, matched),
        **mentions.count(predicted, predicted_story, predicted_boxes, matched),
        **names.count(predicted, predicted_story),
        **persistence.count(reference_analysis, reference_story, predicted, predicted_story),
        **length.count(reference_story, predicted_story),
        **coherence.count(reference_analysis, reference_story, predicted, predicted_story, len(reference.sizes)),
    }
    kept = control.Kept(
        reference.story_id,
        reference.sizes,
        reference_boxes,
        predicted_boxes,
        told=control.told(predicted_story, predicted_boxes),
        unfounded=counts["references/hallucinations"] - counts["references/phantom"],
        mentions=int(counts["references/mentions"]),
        truths=paper.pool(reference_analysis, len(reference.sizes)) if of_paper else (),
        claims=_claims(pair) if of_paper else None,
    )
    return counts, kept


def _claims(pair: _Parsed) -> list[paper.Claim]:
    """The answer's boxes in the paper's protocol, which cannot read an answer without `<think>` and `</think>`."""
    return paper.pool(pair.answer.analysis if pair.answer.story is not None else None, len(pair.reference.sizes))


def _paper(pair: _Parsed) -> dict[str, float]:
    """One story's scores in the paper's protocol."""
    return paper.count(paper.pool(pair.reference_analysis, len(pair.reference.sizes)), _claims(pair))


def _blocks(references: Iterable[Reference]) -> Iterator[list[Reference]]:
    """References in blocks of _BLOCK. Raises ScoringError for a repeated story ID."""
    seen: set[str] = set()
    block: list[Reference] = []
    for reference in references:
        if reference.story_id in seen:
            raise ScoringError(f"The data hold story {reference.story_id!r} twice: story IDs must be unique.")
        seen.add(reference.story_id)
        block.append(reference)
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block


def _refuse_unknown(predictions: Iterable[str], known: Container[str]) -> None:
    unknown = [story_id for story_id in predictions if story_id not in known]
    if unknown:
        raise ScoringError(
            f"{len(unknown)} predictions are for stories that the data do not hold (for example {unknown[0]!r}): "
            "score them on the split that they were made for."
        )
