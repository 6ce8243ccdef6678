"""What reading or checking found wrong with a text: never an exception, always a place and a plain sentence."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """`rule` is a name from `rules.py`, which knows its severity. `line` and `column` count from 1; `image` from 1."""

    rule: str
    message: str
    line: int = 0
    column: int = 0
    image: int | None = None


def quote(text: str) -> str:
    """A text as a message shows it: in quotes, cut at 40 characters."""
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


class Tally:
    """Lets through 1000 problems of each rule: a megabyte of `</gdo>` would be 170,000 of the same."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def allows(self, rule: str) -> bool:
        self._counts[rule] += 1
        return self._counts[rule] <= 1000
