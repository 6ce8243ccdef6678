"""The grounded story: tagged text to objects and back."""

from dataclasses import dataclass, field
from typing import Literal

TagKind = Literal["gdo", "gda", "gdl"]


@dataclass(frozen=True, slots=True)
class Mention:
    """A tagged span. `offset` is where its opening tag starts in the story text, in characters (0 if made by hand)."""

    kind: TagKind
    ids: tuple[str, ...]
    text: str
    offset: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Passage:
    """One `<gdi imageN>` … `</gdi>`: plain text and mentions in order."""

    image: int
    parts: tuple[str | Mention, ...] = ()
    offset: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Story:
    passages: tuple[Passage, ...] = ()


def render(story: Story) -> str:
    """The tagged text, passages a blank line apart, without a final line end. Inverse of `read`."""
    return "\n\n".join(
        f"<gdi image{passage.image}>\n{''.join(map(_render_part, passage.parts))}\n</gdi>" for passage in story.passages
    )


def _render_part(part: str | Mention) -> str:
    if isinstance(part, str):
        return part
    return f"<{part.kind} {' '.join(part.ids)}>{part.text}</{part.kind}>"
