"""How far long work is: bars in a terminal, a line every half minute elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 30.0
"""Seconds between lines where there is no terminal."""

Tell = Callable[[str, int, int], None]
"""What the work is on, how much of it is done, and how much there is."""


@contextmanager
def told(unit: str) -> Iterator[Tell]:
    """A function that tells how far the work is, on standard error; `unit` is what it counts, such as "frames"."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TaskID

    console, last, tasks = Console(stderr=True, highlight=False), time.monotonic(), dict[str, TaskID]()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True,
                  disable=not sys.stderr.isatty()) as progress:  # fmt: skip

        def tell(what: str, done: int, all: int) -> None:
            nonlocal last
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=all)
            progress.update(tasks[what], completed=done)
            if progress.disable and time.monotonic() - last > EVERY:
                last = time.monotonic()
                console.print(f"{what}: {done} of {all} {unit}", markup=False)

        yield tell
