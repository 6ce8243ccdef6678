"""Which stories every step of a training run takes, worked out beforehand.

The plan depends on seed and lengths alone, so every process knows every step, and a resumed run goes on where it was.

    stories 0..5, batch_size 2, accumulation 1, 1 process, 2 epochs -> 6 steps of 2:
    [(0, 4), (0, 1)], [(0, 3), (0, 0)], [(0, 2), (0, 5)], [(1, 5), (1, 2)], ...      items are (epoch, story)
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WINDOW = 16
"""So many passes are sorted by length together: enough that the stories of one pass are of about one length."""

Item = tuple[int, int]
"""(epoch from 0, story's index)."""


@dataclass(frozen=True)
class Plan:
    """`passes[i][rank]` are the items of the i-th forward pass of a process; `accumulation` passes make a step."""

    passes: tuple[tuple[tuple[Item, ...], ...], ...]
    accumulation: int
    stories: int
    processes: int

    @property
    def steps(self) -> int:
        return len(self.passes) // self.accumulation

    def step(self, number: int) -> list[Item]:
        """All items of a step (from 0), over all processes."""
        passes = self.passes[number * self.accumulation : (number + 1) * self.accumulation]
        return [item for one_pass in passes for items in one_pass for item in items]

    def epochs_after(self, steps: int) -> float:
        """How many times each story was seen, on average, after so many steps."""
        items = steps * self.accumulation * self.processes * len(self.passes[0][0])
        return items / self.stories

    def ends_epoch(self, steps: int) -> bool:
        """Whether an epoch is complete after so many steps and was not after one less. The last step ends one too."""
        return int(self.epochs_after(steps)) > int(self.epochs_after(steps - 1)) or steps == self.steps


def make(
    lengths: Sequence[int],
    *,
    epochs: float,
    max_steps: int | None,
    batch_size: int,
    accumulation: int,
    processes: int,
    seed: int,
) -> Plan:
    """Plan the steps. `lengths` are the stories' tokens: a pass gathers stories of about one length in all processes.

    The stories come as one stream, epoch after epoch, each shuffled; every step is full, and where `epochs` times the
    stories are no whole number of steps, the last step is filled with stories of the epoch that would follow.
    """
    per_pass = batch_size * processes
    per_step = per_pass * accumulation
    steps = max_steps or -(-round(epochs * len(lengths)) // per_step)
    stream = _stream(len(lengths), seed)
    shuffle = random.Random(f"{seed} passes")
    passes: list[tuple[tuple[Item, ...], ...]] = []
    total = steps * accumulation
    while len(passes) < total:
        count = min(WINDOW, total - len(passes))
        window = sorted((next(stream) for _ in range(count * per_pass)), key=lambda item: lengths[item[1]])
        made = [
            tuple(tuple(window[start + rank : start + per_pass : processes]) for rank in range(processes))
            for start in range(0, len(window), per_pass)
        ]
        shuffle.shuffle(made)
        passes += made
    return Plan(tuple(passes), accumulation, len(lengths), processes)


def _stream(stories: int, seed: int) -> Iterator[Item]:
    epoch = 0
    while True:
        order = list(range(stories))
        random.Random(f"{seed} epoch {epoch}").shuffle(order)
        yield from ((epoch, index) for index in order)
        epoch += 1


class Passes:
    """One process' share of a plan, as the batch sampler that torch's DataLoader wants."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self.plan = plan
        self.rank = rank
        self.batch_size = len(plan.passes[0][0])
        self.drop_last = False

    def __len__(self) -> int:
        return len(self.plan.passes)

    def __iter__(self) -> Iterator[list[Item]]:
        return (list(one_pass[self.rank]) for one_pass in self.plan.passes)
