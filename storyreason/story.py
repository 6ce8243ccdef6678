"""The grounded story: tagged text to objects and back."""

from dataclasses import dataclass
from typing import Literal

TagKind = Literal["gdo", "gda", "gdl"]


@dataclass(frozen=True, slots=True)
class Mention:
    """A tagged span. `offset` is where its opening tag starts in the story text, in characters (0 when built by hand)."""

    kind: TagKind
    ids: tuple[str, ...]
    text: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Passage:
    """One `<gdi imageN>` … `</gdi>`: plain text and mentions in order."""

    image: int
    parts: tuple[str | Mention, ...] = ()
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Story:
    passages: tuple[Passage, ...] = ()
