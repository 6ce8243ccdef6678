"""What parsing or checking found wrong with a text: never an exception, always a position and a sentence."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """`rule` is a name in `rules.RULES`, which holds its severity. `line`, `column` and `image` count from 1."""

    rule: str
    message: str
    line: int = 0
    column: int = 0
    image: int | None = None


def quote(text: str) -> str:
    """A text as messages show it: quoted and cut at 40 characters."""
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


class Tally:
    """Keeps the first 1000 problems of each rule: a megabyte of `</gdo>` would make 170,000 identical ones."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def allows(self, rule: str) -> bool:
        self._counts[rule] += 1
        return self._counts[rule] <= 1000
