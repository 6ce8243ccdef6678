"""Pairs of a right and a wrong answer to one prompt and pictures, for a training that learns preferences.

A pair is an item of the plan, as a story is in a supervised training. Its two answers are two documents of one row, each with
the prompt: the features of the pictures are cached, so that only the prompt's tokens pass through the model twice.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from storyreason import chat, dataset
from storyreason.errors import TrainingError
from storyreason.format import answer
from storyreason.scoring.control import pairing
from storyreason.training import negatives, prepared, targets
from storyreason.training.config import ImproveConfig
from storyreason.training.examples import StoryDataset
from storyreason.training.job import Job
from storyreason.training.negatives import Kind, Told
from storyreason.training.plan import Item
from storyreason.training.prepared import Prepared

if TYPE_CHECKING:
    import torch


class PairDataset(StoryDataset):
    """Pairs by (epoch, index): each story with each of its wrong answers. The request of a pair is the same in all epochs."""

    def __init__(self, stories: StoryDataset, wrong: Prepared, kinds: Sequence[Kind]) -> None:
        """`wrong` are prepared answers whose ID is a story's, a space, and the kind."""
        row_of = {name: row for row, name in enumerate(wrong.ids)}
        config, ids = stories.config, [stories.prepared.ids[row] for row in stories.rows]
        found = [
            (index, kind, row)
            for index, name in enumerate(ids)
            for kind in kinds
            if (row := row_of.get(f"{name} {kind}")) is not None
        ]
        right = np.asarray(stories.lengths, np.int64) - stories.prepared.answer_tokens[stories.rows]
        lengths = {row: int(right[index] + wrong.answer_tokens[row]) for index, _, row in found}
        found = [one for one in found if lengths[one[2]] <= config.max_tokens]
        rows = [int(stories.rows[index]) for index, _, _ in found]
        super().__init__(stories.examples, rows, stories.encoder, config, stories.prepared)
        self.dropped = stories.dropped
        self.wrong = wrong
        self.wrong_rows = np.asarray([row for _, _, row in found], np.int64)
        """The row of each pair's wrong answer in `wrong`."""
        self.kinds: list[Kind] = [kind for _, kind, _ in found]
        self.lengths = [one + lengths[row] for one, (_, _, row) in zip(self.lengths, found, strict=True)]
        self.reference: np.ndarray | None = None
        """The log-probabilities of the right and the wrong answers by the model that the training starts from, float64
        [pairs, 2]; None until they are computed."""

    def line(self) -> dict[str, object]:
        """For `progress.jsonl`: how many pairs there are, and of which kind."""
        return {"pairs": len(self), "kinds": dict(Counter(self.kinds))}

    def request(self, epoch: int, index: int) -> str:
        return super().request(0, index)

    def passes(self, item: Item) -> list[tuple[int, int]]:
        right, wrong = self.right_tokens(item[1]), int(self.wrong.answer_tokens[self.wrong_rows[item[1]]])
        prompt = super().tokens(item) - right
        return [(prompt + tokens, tokens) for tokens in (right, wrong)]

    def tokens(self, item: Item) -> int:
        return sum(tokens for tokens, _ in self.passes(item))

    def right_tokens(self, index: int) -> int:
        """Tokens of a pair's right answer."""
        return super().answer_tokens(index)

    def answer_tokens(self, index: int) -> int:
        return sum(tokens for _, tokens in self.passes((0, index)))

    def loss_tokens(self, item: Item) -> int:
        return self.answer_tokens(item[1])

    def digest(self) -> str:
        wrong = self.wrong.digests[self.wrong_rows].tobytes()
        return hashlib.sha256(super().digest().encode() + wrong).hexdigest()[:16]

    def documents(self, item: Item, seen: bool) -> list[chat.Inputs]:
        """The right answer, then the wrong one."""
        pictures = self.seen[item[1]]() if seen else self.decoded(item[1])
        wrong = self.wrong[int(self.wrong_rows[item[1]])].answer
        answers = (self.story(item[1]).answer.tolist(), wrong.tolist())
        return [self.encoder.join(pictures, self.request(*item), one, "answer") for one in answers]

    def beside(self, items: Sequence[Item]) -> "dict[str, torch.Tensor]":
        """The pairs' reference log-probabilities [pairs, 2]."""
        import torch

        if self.reference is None:
            return {}
        return {"reference": torch.from_numpy(self.reference[[index for _, index in items]])}


def made(
    job: Job, improve: ImproveConfig, stories: StoryDataset, validation: StoryDataset
) -> tuple[PairDataset, PairDataset]:
    """The pairs of the stories to train on and to validate on. Raises TrainingError if there are none to train on.

    Wrong answers are prepared once, as the right ones are. Those that mix films take both from the same part.
    """
    wrong = prepared.prepare(
        job.prepared or job.work / "prepared",
        (one for part in (stories, validation) for one in wrong_examples(part, improve.negatives)),
        stories.encoder,
        job.training,
        data=job.data_version(),
        stories=job.stories,
        negatives=[negatives.VERSION, *improve.negatives],
        seed=job.training.seed,
        max_tokens=job.training.max_tokens,
    )
    found = PairDataset(stories, wrong, improve.negatives), PairDataset(validation, wrong, improve.negatives)
    if not len(found[0]):
        raise TrainingError(
            f"No story of {job.data} can have a wrong answer of improve.negatives={','.join(improve.negatives)}: name "
            f"others of {', '.join(negatives.KINDS)}."
        )
    return found


def wrong_examples(stories: StoryDataset, kinds: Sequence[Kind]) -> Iterator[dataset.Example]:
    """Every wrong answer that the stories can have, as an example with the pictures of the right one."""
    ready, config = stories.prepared, stories.config
    row_of = {ready.ids[row]: int(row) for row in stories.rows}
    others = pairing({name: int(ready.images[row]) for name, row in row_of.items()}) if row_of else {}

    def told(name: str) -> tuple[dataset.Example, Told]:
        example = stories.examples[ready[row_of[name]].place]
        example = replace(example, images=example.images[: config.max_images], frame_count=None)
        read = answer.read(answer.join(example.chain_of_thought, example.story))
        return example, Told(name, targets.cut(read, config.max_images), dataset.sizes(example))

    for name in row_of:
        example, right = told(name)
        other = told(others[name])[1] if name in others and "mixed-films" in kinds else None
        for kind in kinds:
            if (text := negatives.negative(kind, right, other, config.seed)) is not None:
                read = answer.read(text)
                yield replace(
                    example,
                    story_id=f"{name} {kind}",
                    chain_of_thought=read.chain_of_thought,
                    story=read.story_text,
                )
