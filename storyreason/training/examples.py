"""The stories of a training run: read, tokenized and measured once, decoded when needed, joined into batches."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from storyreason import analysis, answer, chat, dataset, story
from storyreason.errors import TrainingError
from storyreason.training.config import TrainingConfig
from storyreason.training.plan import Item

if TYPE_CHECKING:
    import torch

DROPPED_AT_MOST = 0.05
"""More stories than this share over `max_tokens`, and the run refuses."""
CACHE_BYTES = 2 * 2**30
"""Decoded frames are kept in memory up to so much; beyond it they are decoded again each time."""


def target(example: dataset.Example, drop_unmentioned_backgrounds: bool) -> str:
    """The answer that the model is to learn for an example."""
    thought = example.chain_of_thought
    if drop_unmentioned_backgrounds:
        thought = without_unmentioned_backgrounds(thought, example.story)
    return answer.join(thought, example.story)


def without_unmentioned_backgrounds(chain_of_thought: str, story_text: str) -> str:
    """The analysis without the bg rows that the story never mentions; untouched when there are none."""
    told, _ = story.read(story_text)
    mentioned = {
        entity
        for passage in told.passages
        for part in passage.parts
        if not isinstance(part, str)
        for entity in part.ids
    }
    read, _ = analysis.read(chain_of_thought)

    def kept(row: analysis.Object) -> bool:
        return not row.id.startswith("bg") or row.id in mentioned

    if all(kept(row) for section in read.sections for row in section.objects):
        return chain_of_thought
    sections = (replace(section, objects=tuple(filter(kept, section.objects))) for section in read.sections)
    return analysis.render(replace(read, sections=tuple(sections)))


@dataclass(frozen=True, slots=True)
class _Story:
    index: int  # in the data set
    story_id: str
    image_tokens: tuple[int, ...]
    answer: tuple[int, ...]


class Stories:
    """Stories by (epoch, index). A torch map-style data set whose items are `chat.Inputs`."""

    def __init__(
        self, examples: Sequence[dataset.Example], indices: Sequence[int], encoder: chat.Encoder, config: TrainingConfig
    ) -> None:
        """Tokenize and measure `examples[i]` for i in `indices`. Raises TrainingError when too many are too long."""
        self.examples = examples
        self.encoder = encoder
        self.config = config
        self._pictures: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._room = CACHE_BYTES
        read = [self._read(index) for index in indices]
        longest = max(chat.REQUESTS, key=lambda request: encoder.prompt_length((1,), request))
        lengths = [self._tokens(item, longest) for item in read]
        self.stories = [item for item, length in zip(read, lengths, strict=True) if length <= config.max_tokens]
        self.lengths = [length for length in lengths if length <= config.max_tokens]
        self.dropped = len(read) - len(self.stories)
        if self.dropped > DROPPED_AT_MOST * len(read):
            enough = sorted(lengths)[-int(DROPPED_AT_MOST * len(read)) - 1]
            raise TrainingError(
                f"{self.dropped} of {len(read)} stories, more than {DROPPED_AT_MOST:.0%}, are longer than "
                f"training.max_tokens = {config.max_tokens}: set it to {enough} (the longest has {max(lengths)})."
            )

    def _read(self, index: int) -> _Story:
        example = self.examples[index]
        tokens = self.encoder.answer(target(example, self.config.drop_unmentioned_backgrounds))
        return _Story(index, example.story_id, self.encoder.image_tokens(dataset.sizes(example)), tuple(tokens))

    def _tokens(self, item: _Story, request: str) -> int:
        return self.encoder.prompt_length(item.image_tokens, request) + len(item.answer)

    def request(self, epoch: int, index: int) -> str:
        """The user's request for a story in an epoch: drawn at random, the same in every run of one seed."""
        return random.Random(f"{self.config.seed} {epoch} {self.stories[index].story_id}").choice(chat.REQUESTS)

    def tokens(self, item: Item) -> int:
        """Tokens of a story with the request of that epoch."""
        return self._tokens(self.stories[item[1]], self.request(*item))

    def loss_tokens(self, item: Item) -> int:
        """How many tokens of a story the loss is taken over."""
        if self.config.loss == "answer":
            return len(self.stories[item[1]].answer)
        return self.tokens(item) - sum(self.stories[item[1]].image_tokens) - 1  # the first token is never predicted

    def __len__(self) -> int:
        return len(self.stories)

    def __getitem__(self, item: Item) -> chat.Inputs:
        epoch, index = item
        request = self.request(epoch, index)
        return self.encoder.join(self._decoded(index), request, self.stories[index].answer, self.config.loss)

    def _decoded(self, index: int) -> "tuple[torch.Tensor, torch.Tensor]":
        found = self._pictures.get(index)
        if found is None:
            example = self.examples[self.stories[index].index]
            found = self.encoder.pictures(chat.open_images(example.images, example.story_id))
            size = found[0].nbytes
            if size <= self._room:
                self._room -= size
                self._pictures[index] = found
        return found


def collate(inputs: Sequence[chat.Inputs], pad: int) -> dict[str, Any]:
    """A batch: tokens padded on the right, `mm_token_type_ids` kept (without them positions are silently wrong).

    A batch of one has no attention mask: nothing is padded, and attention may take its fastest way.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    def padded(name: str, value: int) -> torch.Tensor:
        return pad_sequence([getattr(one, name) for one in inputs], batch_first=True, padding_value=value)

    batch = {
        "input_ids": padded("input_ids", pad),
        "labels": padded("labels", chat.IGNORED),
        "mm_token_type_ids": padded("mm_token_type_ids", 0),
        "pixel_values": torch.cat([one.pixel_values for one in inputs]),
        "image_grid_thw": torch.cat([one.image_grid_thw for one in inputs]),
    }
    if len(inputs) > 1:
        batch["attention_mask"] = pad_sequence(
            [torch.ones_like(one.input_ids) for one in inputs], batch_first=True, padding_value=0
        )
    return batch
