"""The stories of a training run: prepared once, decoded when needed, joined into batches."""

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from storyreason import chat, dataset
from storyreason.errors import TrainingError
from storyreason.pictures import open_frames
from storyreason.training.config import TrainingConfig
from storyreason.training.plan import Item, Pass
from storyreason.training.prepared import Prepared, PreparedStory

if TYPE_CHECKING:
    import torch

    Decoded = tuple[torch.Tensor, torch.Tensor]
    """Patches [patches, patch size] of some pictures (or features [tokens, size]), and grids [pictures, 3]."""

DROPPED_AT_MOST = 0.05
"""If a larger share of the stories exceeds `max_tokens`, the run is refused."""
CACHE_BYTES = 2 * 2**30
"""Decoded frames are kept in memory up to this many bytes; the rest is decoded again each time."""


class StoryDataset:
    """Stories by (epoch, index). A torch map-style data set whose items are `chat.Inputs`."""

    def __init__(
        self,
        examples: Sequence[dataset.Example],
        rows: Sequence[int],
        encoder: chat.Encoder,
        config: TrainingConfig,
        prepared: Prepared | None = None,
        shuffled: float = 0.0,
    ) -> None:
        """The stories `prepared[row]`; without `prepared`, the examples are prepared here.

        `shuffled`: see `TrainingConfig.shuffled_pictures`. It is for the stories to train on, not those to validate on.
        """
        self.examples = examples
        self.encoder = encoder
        self.config = config
        self.prepared = Prepared.of(examples, encoder, config) if prepared is None else prepared
        self.shuffled = shuffled
        self.seen: dict[int, Callable[[], Decoded]] = {}
        """How to load the features of a story's pictures, for the stories whose features are cached."""
        self._pictures: dict[int, Decoded] = {}
        """By row."""
        self._room = CACHE_BYTES
        self._analyses: dict[int, int] = {}
        """Tokens of the analyses of shuffled stories, by row."""
        read = np.asarray(rows, np.int64)
        longest = max(chat.REQUESTS, key=lambda request: encoder.prompt_length((1,), request))
        lengths = self._lengths(read, longest)
        fits = lengths <= config.max_tokens
        self.rows = read[fits]
        """The row of each story in `prepared`."""
        self.lengths: list[int] = lengths[fits].tolist()
        self.dropped: list[int] = lengths[~fits].tolist()
        """Lengths of the stories that are left out because they exceed `max_tokens`."""

    def story(self, index: int) -> PreparedStory:
        """A story as it was prepared."""
        found: PreparedStory = self.prepared[int(self.rows[index])]
        return found

    def _lengths(self, rows: np.ndarray, request: str) -> np.ndarray:
        """Tokens of the stories of these rows with a request."""
        images = self.prepared.images[rows]
        # the length of a prompt without its pictures, by their number
        prompt = {n: self.encoder.prompt_length((0,) * n, request) for n in np.unique(images).tolist()}
        alone = np.asarray([prompt[n] for n in images.tolist()], np.int64)
        total: np.ndarray = alone + self.prepared.image_tokens[rows] + self.prepared.answer_tokens[rows]
        return total

    def request(self, epoch: int, index: int) -> str:
        """The user's request for a story in an epoch: drawn at random, the same in every run with the same seed."""
        return random.Random(f"{self.config.seed} {epoch} {self.prepared.ids[self.rows[index]]}").choice(chat.REQUESTS)

    def tokens(self, item: Item) -> int:
        """Tokens of a story with the request of that epoch."""
        return int(self._lengths(self.rows[item[1] : item[1] + 1], self.request(*item))[0])

    def answer_tokens(self, index: int) -> int:
        """Tokens of a story's answer."""
        return int(self.prepared.answer_tokens[self.rows[index]])

    def image_tokens(self, index: int) -> int:
        """Tokens of all pictures of a story."""
        return int(self.prepared.image_tokens[self.rows[index]])

    def loss_tokens(self, item: Item) -> int:
        """How many tokens of a story the loss covers."""
        if self.is_shuffled(item):
            return self.answer_tokens(item[1]) - self._analysis_length(int(self.rows[item[1]]))
        if self.config.loss == "answer":
            return self.answer_tokens(item[1])
        return self.tokens(item) - self.image_tokens(item[1]) - 1  # the first token is never predicted

    def is_shuffled(self, item: Item) -> bool:
        """Whether a story of several pictures is shown with them in another order in an epoch."""
        return (
            self.shuffled > 0
            and int(self.prepared.images[self.rows[item[1]]]) > 1
            and self._luck("order", item).random() < self.shuffled
        )

    def _luck(self, what: str, item: Item) -> random.Random:
        """Chance of a story in an epoch, the same in every run with the same seed."""
        return random.Random(f"{what} {self.config.seed} {item[0]} {self.prepared.ids[self.rows[item[1]]]}")

    def _analysis_length(self, row: int) -> int:
        found = self._analyses.get(row)
        if found is None:
            found = self._analyses[row] = self.encoder.analysis_length(self.prepared[row].answer.tolist())
        return found

    def passes(self, item: Item) -> "list[tuple[int, int]]":
        """Tokens, and tokens that the loss covers, of each document of an item."""
        return [(self.tokens(item), self.loss_tokens(item))]

    def digest(self) -> str:
        """Identifies the stories: IDs, pictures, frames' tokens, answers."""
        return hashlib.sha256(self.prepared.digests[self.rows].tobytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: Item) -> chat.Inputs:
        return self._joined(item, self.decoded(item[1]))

    def with_features(self, item: Item) -> chat.Inputs:
        """Like `stories[item]`, with the features of its pictures instead of their patches."""
        return self._joined(item, self.seen[item[1]]())

    def documents(self, item: Item, seen: bool) -> list[chat.Inputs]:
        """All that passes through the model for an item; `seen`: with the features of its pictures."""
        return [self.with_features(item) if seen else self[item]]

    def beside(self, items: Sequence[Item]) -> "dict[str, torch.Tensor]":
        """What a batch of these items has besides the model's inputs."""
        return {}

    def _joined(self, item: Item, pictures: "Decoded") -> chat.Inputs:
        unlearnt = 0
        if self.is_shuffled(item):
            pictures = in_another_order(pictures, self._luck("turn", item))
            unlearnt = self._analysis_length(int(self.rows[item[1]]))
        answer = self.story(item[1]).answer.tolist()
        return self.encoder.join(pictures, self.request(*item), answer, self.config.loss, unlearnt)

    def decoded(self, index: int) -> "Decoded":
        """Patches and grids of a story's pictures, kept for the next epoch while there is room."""
        row = int(self.rows[index])
        found = self._pictures.get(row)
        if found is None:
            found = self.decode(index)
            size = found[0].nbytes
            if size <= self._room:
                self._room -= size
                self._pictures[row] = found
        return found

    def decode(self, index: int) -> "Decoded":
        """The same from the encoded pictures."""
        example = self.examples[self.story(index).place]
        images = example.images[: self.config.max_images]
        return self.encoder.pictures(open_frames(images, example.story_id))


def in_another_order(pictures: "Decoded", luck: random.Random) -> "Decoded":
    """Two or more pictures, each at a later one's place and the last ones first."""
    import torch

    content, grids = pictures
    of_each = grids.prod(dim=1)
    parts = content.split((of_each * len(content) // of_each.sum()).tolist())
    turn = luck.randrange(1, len(parts))
    return torch.cat(parts[-turn:] + parts[:-turn]), grids.roll(turn, 0)


def refuse_long(parts: Sequence[StoryDataset], max_tokens: int) -> None:
    """Raises TrainingError when too many stories, over all parts, were left out as too long."""
    lengths = sorted(length for part in parts for length in (*part.lengths, *part.dropped))
    dropped, may = sum(len(part.dropped) for part in parts), int(DROPPED_AT_MOST * len(lengths))
    if dropped > may:
        raise TrainingError(
            f"{dropped} of {len(lengths)} stories, more than {DROPPED_AT_MOST:.0%}, are longer than "
            f"training.max_tokens = {max_tokens}: set it to {lengths[-may - 1]} (the longest has {lengths[-1]})."
        )


class Batches:
    """The micro-batches of one process, by the pass of a plan: a torch map-style data set over a `StoryDataset`."""

    def __init__(
        self, stories: StoryDataset, join: Callable[[Sequence[chat.Inputs]], dict[str, Any]], rank: int = 0
    ) -> None:
        self.stories = stories
        self.join = join
        self.rank = rank

    def __getitem__(self, one_pass: Pass) -> dict[str, Any]:
        """The micro-batch of a pass: with `features` if they are cached for all processes, else with `pixel_values`.

        All, because the parts of a sharded tower are gathered from all processes, or from none.
        """
        items = one_pass[self.rank]
        seen = all(index in self.stories.seen for mine in one_pass for _, index in mine)
        batch = self.join([one for item in items for one in self.stories.documents(item, seen)])
        if seen:
            batch["features"] = batch.pop("pixel_values")
        return {**batch, **self.stories.beside(items)}


def collate(inputs: Sequence[chat.Inputs], pad: int) -> dict[str, Any]:
    """A micro-batch: tokens padded on the right, with `mm_token_type_ids` (without them positions are silently wrong).

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
