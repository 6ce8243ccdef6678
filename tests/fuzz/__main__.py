"""Reads mutated answers until something breaks: python -m tests.fuzz --cases 1000000

Case N is the same answer everywhere. A failure prints its number and its text, made as short as it still fails;
`--first N --cases 1` repeats it. Put the text into tests/fuzz/seeds, with the repair.
"""

import contextlib
import random
import sys
import time
from typing import Annotated

import typer

from tests.fuzz.answers import Size, case
from tests.fuzz.properties import examine

REPORT = 60.0
"""Seconds between two lines of progress."""


def failure(text: str, sizes: list[Size], state: object) -> Exception | None:
    """What examining a text raises, with the further choices of its case."""
    chance = random.Random()
    chance.setstate(state)  # type: ignore[arg-type]
    try:
        examine(text, sizes, chance)
    except Exception as error:
        return error
    return None


def shortest(text: str, sizes: list[Size], state: object) -> str:
    """The text without every part that its failure (of the same type) does not need."""
    kind, length = type(failure(text, sizes, state)), len(text) // 2
    while length:
        start = 0
        while start < len(text):
            shorter = text[:start] + text[start + length :]
            if type(failure(shorter, sizes, state)) is kind:
                text = shorter
            else:
                start += length
        length //= 2
    return text


def main(
    cases: Annotated[int, typer.Option(min=1)] = 20_000,
    first: Annotated[int, typer.Option(min=0, help="The number of the first case.")] = 0,
) -> None:
    """Examine so many mutated answers; end at the first that breaks something."""
    start = told = time.monotonic()
    characters = 0
    for number in range(first, first + cases):
        text, sizes, chance = case(number)
        characters += len(text)
        state = chance.getstate()
        try:
            examine(text, sizes, chance)
        except Exception:
            with contextlib.suppress(KeyboardInterrupt):
                sys.stderr.write(f"case {number} breaks a promise; shortened:\n{shortest(text, sizes, state)!r}\n")
            raise
        if time.monotonic() - told > REPORT:
            told = time.monotonic()
            sys.stderr.write(f"{number + 1 - first} of {cases} cases, {told - start:.0f} s\n")
    seconds = time.monotonic() - start
    typer.echo(f"{cases} answers, {characters / 1e6:.0f} million characters, {seconds:.0f} s: every promise kept")


if __name__ == "__main__":
    typer.run(main)
