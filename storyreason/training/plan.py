"""Which stories each step of a training run takes, planned in advance.

The plan depends on nothing but the seed and the lengths, so every process knows every step, and a resumed run continues
where it stopped.

    stories 0..5, batch_size 2, accumulation 1, 1 process, 2 epochs -> 6 steps of 2:
    [(0, 4), (0, 1)], [(0, 3), (0, 0)], [(0, 2), (0, 5)], [(1, 5), (1, 2)], ...      items are (epoch, story)

Packing changes how the stories of a step pass through the model, not which stories they are:

    a step of stories of 400, 300, 250 and 50 tokens, rows of up to 600 -> two rows of 300 + 250 and 400 + 50 tokens
"""

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WINDOW = 16
"""How many passes are sorted by length together: enough that the stories of a pass have similar lengths."""

Item = tuple[int, int]
"""The epoch, from 0, and the index of a story."""


Pass = tuple[tuple[Item, ...], ...]
"""One micro-batch of every process: `one_pass[rank]` are the items of a process."""


@dataclass(frozen=True)
class Plan:
    """`parts[step]` are the passes of a step. Every process has the same number of passes, and an item in each."""

    parts: tuple[tuple[Pass, ...], ...]
    stories: int

    @property
    def steps(self) -> int:
        return len(self.parts)

    @property
    def last(self) -> int:
        """The step after which this process ends."""
        return self.steps

    @property
    def per_step(self) -> int:
        """How many stories a step takes."""
        return len(self.step(0))

    def step(self, number: int) -> list[Item]:
        """All items of a step (from 0), over all processes."""
        return [item for one_pass in self.parts[number] for items in one_pass for item in items]

    def epochs_after(self, steps: int) -> float:
        """How many times each story was seen, on average, after this many steps."""
        return steps * self.per_step / self.stories

    def ends_epoch(self, steps: int) -> bool:
        """Whether the last of this many steps completes an epoch. The plan's last step always does."""
        return int(self.epochs_after(steps)) > int(self.epochs_after(steps - 1)) or steps == self.steps


@dataclass(frozen=True)
class RoundPlan(Plan):
    """The steps of a training in rounds, of which one has its answers: the other steps have no passes."""

    number: int
    """Which round has its answers, from 0."""
    per_round: int
    """How many steps a round has."""
    asked: int
    """How many stories the model answers in a round."""
    answers: int
    """How many answers each of these stories gets."""

    @property
    def last(self) -> int:
        return (self.number + 1) * self.per_round

    @property
    def per_step(self) -> int:
        return self.asked * self.answers

    def epochs_after(self, steps: int) -> float:
        return steps / self.per_round * self.asked / self.stories

    def ends_epoch(self, steps: int) -> bool:
        """A round is to this training what an epoch is to others: only then is there a checkpoint."""
        return steps % self.per_round == 0


def make(
    lengths: Sequence[int],
    *,
    epochs: float,
    max_steps: int | None,
    batch_size: int,
    accumulation: int,
    processes: int,
    seed: int,
    pack_tokens: int | None = None,
) -> Plan:
    """Plan the steps. `lengths` are the stories' tokens: a pass gathers stories of similar length over all processes.

    The stories come as one stream, epoch after epoch, each of them shuffled. Every step is full: if `epochs` does not end
    with a step, the last one is filled with stories of the epoch that would follow. There is at least one step.

    With `pack_tokens` the steps have the same stories, in as few rows of up to this many tokens as hold them.
    """
    per_pass = batch_size * processes
    per_step = per_pass * accumulation
    steps = max_steps or -(-max(1, round(epochs * len(lengths))) // per_step)
    items = stream(len(lengths), seed)
    shuffle = random.Random(f"{seed} passes")
    passes: list[tuple[tuple[Item, ...], ...]] = []
    total = steps * accumulation
    while len(passes) < total:
        count = min(WINDOW, total - len(passes))
        window = sorted((next(items) for _ in range(count * per_pass)), key=lambda item: lengths[item[1]])
        made = [
            tuple(tuple(window[start + rank : start + per_pass : processes]) for rank in range(processes))
            for start in range(0, len(window), per_pass)
        ]
        shuffle.shuffle(made)
        passes += made
    parts = (tuple(passes[start : start + accumulation]) for start in range(0, total, accumulation))
    if pack_tokens:
        parts = (_packed(part, lengths, pack_tokens, processes) for part in parts)
    return Plan(tuple(parts), len(lengths))


def of_round(
    lengths: Sequence[int],
    *,
    number: int,
    rounds: int,
    steps: int,
    stories: int,
    asked: int,
    answers: int,
    batch_size: int,
    processes: int,
    seed: int,
    pack_tokens: int | None = None,
) -> RoundPlan:
    """Plan the `steps` of one of the `rounds`: all its answers, whose tokens are `lengths`, once, in as many for each step and
    process as there can be. Where they are not a multiple of the processes, less than that many are left out."""
    order = list(range(len(lengths)))
    random.Random(f"{seed} round {number}").shuffle(order)
    units = len(order) // processes
    parts: list[tuple[Pass, ...]] = [()] * (rounds * steps)
    for step in range(steps):
        mine = order[units * step // steps * processes : units * (step + 1) // steps * processes]
        mine.sort(key=lengths.__getitem__)
        per_pass = batch_size * processes
        passes = tuple(
            tuple(
                tuple((number, index) for index in mine[start + rank : start + per_pass : processes])
                for rank in range(processes)
            )
            for start in range(0, len(mine), per_pass)
        )
        parts[number * steps + step] = _packed(passes, lengths, pack_tokens, processes) if pack_tokens else passes
    return RoundPlan(tuple(parts), stories, number, steps, asked, answers)


def _packed(part: tuple[Pass, ...], lengths: Sequence[int], budget: int, processes: int) -> tuple[Pass, ...]:
    """The same items in rows. The rows of one pass have similar lengths, so that no process waits for another."""
    items = [item for one_pass in part for items in one_pass for item in items]
    rows = pack([lengths[index] for _, index in items], budget, processes)
    filled = [tuple(items[place] for place in row) for row in rows]
    return tuple(tuple(filled[start : start + processes]) for start in range(0, len(filled), processes))


def pack(lengths: Sequence[int], budget: int, multiple: int = 1) -> list[list[int]]:
    """Positions 0, 1, … of `lengths` in rows of up to `budget` tokens, the longest row first.

    The number of rows is a multiple of `multiple`, as small as the longest-first rule finds, and they are filled evenly.
    Whatever is longer than the budget gets a row of its own.

    >>> pack([400, 300, 250, 50], budget=600)
    [[1, 2], [0, 3]]
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    longest = max(budget, max(lengths, default=0))
    count = max(1, -(-sum(lengths) // longest))
    count = -(-count // multiple) * multiple
    while True:
        rows: list[list[int]] = [[] for _ in range(count)]
        emptiest = [(0, row) for row in range(count)]  # a heap of (tokens so far, row)
        for place in order:
            tokens, row = emptiest[0]
            rows[row].append(place)
            heapq.heapreplace(emptiest, (tokens + lengths[place], row))
        filled = [tokens for tokens, _ in sorted(emptiest, key=lambda one: one[1])]
        fits = all(total <= budget or len(row) == 1 for row, total in zip(rows, filled, strict=True))
        if fits or count >= len(lengths):
            break
        count += multiple
    return [sorted(rows[at]) for at in sorted(range(count), key=lambda at: -filled[at])]


def stream(stories: int, seed: int) -> Iterator[Item]:
    """All stories in an order of chance, then all again in another one, and so on without end."""
    epoch = 0
    while True:
        order = list(range(stories))
        random.Random(f"{seed} epoch {epoch}").shuffle(order)
        yield from ((epoch, index) for index in order)
        epoch += 1


class Passes:
    """A plan as a batch sampler for torch's DataLoader: the passes of each step."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.batch_size = 1
        self.drop_last = False

    def __len__(self) -> int:
        return self.plan.steps

    def __iter__(self) -> Iterator[list[Pass]]:
        return map(list, self.plan.parts)
