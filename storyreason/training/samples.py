"""A model's own answers with their rewards, for a training that learns from them.

The answers to a story are compared with each other: the advantage of one is its reward minus the mean of the story's answers,
over their standard deviation (GRPO, Shao et al. 2024, arXiv 2402.03300, section 4.1.2). Where all of them have the same
reward there is nothing to learn, and the story is dropped (DAPO's dynamic sampling, Yu et al. 2025, arXiv 2503.14476, section
3.2); other than there, no other story is asked for instead, and the mean of a step is that over the answers that are left.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import numpy as np

from storyreason import chat, runs
from storyreason.errors import TrainingError
from storyreason.scoring import Reward
from storyreason.training.examples import StoryDataset
from storyreason.training.plan import Item

if TYPE_CHECKING:
    import torch

FILE = "samples.jsonl"
LEAST_SPREAD = 1e-9
"""Rewards that differ by less are the same."""


@dataclass(frozen=True)
class Sample:
    """An answer to a story. `cut`: it ended at the limit of tokens."""

    story_id: str
    answer: str
    cut: bool
    tokens: int
    reward: float
    parts: dict[str, float]
    advantage: float | None
    """None where all answers to the story have the same reward."""


def advantages(rewards: Sequence[float]) -> list[float] | None:
    """Those of the answers to one story; None if their rewards are the same.

    >>> advantages([0.0, 0.5, 1.0])
    [-1.0, 0.0, 1.0]
    """
    if max(rewards) - min(rewards) < LEAST_SPREAD:
        return None
    mean, spread = fmean(rewards), stdev(rewards)
    return [(one - mean) / spread for one in rewards]


def compared(story_id: str, answers: Sequence[tuple[str, bool, int]], rewards: Sequence[Reward]) -> list[Sample]:
    """The answers to a story (text, whether it was cut, tokens) with what they are worth."""
    found = advantages([one.total for one in rewards])
    return [
        Sample(story_id, *answer, one.total, dict(one.parts), None if found is None else found[place])
        for place, (answer, one) in enumerate(zip(answers, rewards, strict=True))
    ]


def folder(work: Path, number: int) -> Path:
    """Where the answers of a round (from 0) of a training are."""
    return work / f"round-{number}"


def write(path: Path, found: Sequence[Sample]) -> None:
    runs.write_text(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in found))


def read(path: Path) -> list[Sample]:
    # `splitlines` also ends a line at U+2028 and others, which an answer may have.
    lines = path.read_bytes().split(b"\n")[:-1]
    return [Sample(**json.loads(line)) for line in lines]


def summary(found: Sequence[Sample]) -> dict[str, float]:
    """What a round's answers are like: the mean reward and each of its parts, and how many taught nothing."""
    stories: dict[str, list[Sample]] = {}
    for one in found:
        stories.setdefault(one.story_id, []).append(one)
    return {
        "reward": fmean(one.reward for one in found),
        **{name: fmean(one.parts[name] for one in found) for name in found[0].parts},
        "tokens": fmean(one.tokens for one in found),
        "cut": fmean(one.cut for one in found),
        "asked": len(stories),
        "dropped": sum(group[0].advantage is None for group in stories.values()),
        "failed": sum(not any(one.reward for one in group) for group in stories.values()),
    }


class SampleDataset(StoryDataset):
    """Answers by (round, index) that have an advantage, each with the pictures of its story and the request."""

    def __init__(self, stories: StoryDataset, samples: Sequence[Sample], request: str) -> None:
        """Raises TrainingError when no answer has an advantage."""
        place_of = {stories.prepared.ids[row]: index for index, row in enumerate(stories.rows)}
        encoder, config = stories.encoder, stories.config
        self.asked_with = request
        kept: list[tuple[int, float, np.ndarray, int]] = []
        for one in samples:
            if one.advantage is None:
                continue
            place = place_of[one.story_id]
            asked = encoder.prompt_length(stories.story(place).image_tokens, request)
            told, room = encoder.answer(one.answer), max(0, config.max_tokens - asked)
            # An answer that was cut does not end, and the model is not to learn that it does. One that is too long to learn
            # from whole is cut here: left out, the longest bad ones would cost nothing.
            answer = np.asarray(told[:-1][:room] if one.cut or len(told) > room else told, np.int32)
            if len(answer):
                kept.append((place, one.advantage, answer, asked + len(answer)))
        if not kept:
            raise TrainingError(_nothing(samples))
        super().__init__(
            stories.examples, [int(stories.rows[place]) for place, *_ in kept], encoder, config, stories.prepared
        )
        self.dropped = stories.dropped
        self.lengths = [length for *_, length in kept]
        self.advantages = np.asarray([advantage for _, advantage, *_ in kept], np.float32)
        self.answers = [answer for *_, answer, _ in kept]
        self.log_probabilities: dict[str, dict[int, np.ndarray]] = {}
        """By whose they are, `reference` (the model that the training starts from) or `old` (the one that answered), those of
        each answer's tokens, float32."""
        self._stories = stories.digest()

    def request(self, epoch: int, index: int) -> str:
        return self.asked_with

    def tokens(self, item: Item) -> int:
        return self.lengths[item[1]]

    def answer_tokens(self, index: int) -> int:
        return len(self.answers[index])

    def loss_tokens(self, item: Item) -> int:
        return self.answer_tokens(item[1])

    def digest(self) -> str:
        """That of the stories, which is the same in all rounds."""
        return self._stories

    def documents(self, item: Item, seen: bool) -> list[chat.Inputs]:
        pictures = self.seen[item[1]]() if seen else self.decoded(item[1])
        return [self.encoder.join(pictures, self.request(*item), self.answers[item[1]].tolist(), "answer")]

    def beside(self, items: Sequence[Item]) -> "dict[str, torch.Tensor]":
        """For each token of the answers, one answer after the other: its advantage, and its log-probabilities."""
        import torch

        indices = [index for _, index in items]
        advantage = np.repeat(self.advantages[indices], [self.answer_tokens(index) for index in indices])
        known = {
            name: torch.from_numpy(np.concatenate([of[index] for index in indices]))
            for name, of in self.log_probabilities.items()
        }
        return {"advantage": torch.from_numpy(advantage), **known}


def _nothing(samples: Sequence[Sample]) -> str:
    found = summary(samples) if samples else {"asked": 0, "failed": 0, "reward": 0.0}
    return (
        f"Nothing to learn from the answers to {found['asked']:.0f} stories: to none of them did two differ in reward, and to "
        f"{found['failed']:.0f} none was readable (mean reward {found['reward']:.3f}). Train the model longer before it "
        "improves, allow longer answers (generation.max_tokens), or raise improve.temperature or improve.stories."
    )
