"""The analysis (chain of thought): what stands in each image, as Markdown tables, to objects and back."""

from dataclasses import dataclass, field
from typing import Literal

from storyreason.boxes import Box

SETTING_ELEMENTS = (
    "Location", "Environment", "Lighting", "Weather", "Time Period", "Architecture", "Interior Design", "Atmosphere",
    "Background",
)  # fmt: skip
PHASES = ("Introduction", "Development", "Conflict", "Turning Point", "Conclusion")

Kind = Literal["char", "obj", "lm", "bg"]
"""What an entity is, as its ID says: people, things, landmarks, background."""

CHARACTERS_HEAD = """\
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|--------------|------|-------------|----------|---------|-------------------|--------------|"""
OBJECTS_HEAD = """\
| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |
|-----------|-------------|----------|------------|-------------------|--------------|"""
SETTING_HEAD = """\
| Setting Element | Description | Mood | Time | Narrative Function |
|-----------------|-------------|------|------|-------------------|"""
PHASES_HEAD = """\
| Narrative Phase | Description | Key Events | Images |
|-----------------|-------------|-----------|--------|"""


@dataclass(frozen=True, slots=True)
class Character:
    """One row of an image's Characters table. `box` is None where the cell does not parse (`box_text` keeps it)."""

    id: str
    name: str
    description: str
    emotions: str
    actions: str
    function: str
    box: Box | None
    box_text: str = ""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Object:
    """One row of an image's Objects table: an `obj`, `lm` or `bg` entity."""

    id: str
    description: str
    purpose: str
    interaction: str
    function: str
    box: Box | None
    box_text: str = ""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of an image's Setting table."""

    element: str
    description: str
    mood: str
    time: str
    function: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Phase:
    """One row of the Narrative Structure table. `images` are numbers from 1 (`"2-4"` reads as 2, 3, 4)."""

    name: str
    description: str
    events: str
    images: tuple[int, ...]
    images_text: str = ""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Section:
    """Everything under one `## Image N` heading."""

    image: int
    characters: tuple[Character, ...] = ()
    objects: tuple[Object, ...] = ()
    settings: tuple[Setting, ...] = ()
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Analysis:
    """The whole chain of thought, sections in the order of the text."""

    sections: tuple[Section, ...] = ()
    phases: tuple[Phase, ...] = ()


def render(analysis: Analysis) -> str:
    """The analysis in the published headings and columns, without a final line end. Inverse of `read`.

    A table without rows is left out with its heading, the Setting too (which `rules` then misses).
    """
    blocks = []
    for section in analysis.sections:
        blocks.append(f"## Image {section.image}")
        if section.characters:
            rows = [
                _row(c.id, c.name, c.description, c.emotions, c.actions, c.function, _box(c))
                for c in section.characters
            ]
            blocks.append("\n".join(["### Characters", CHARACTERS_HEAD, *rows]))
        if section.objects:
            rows = [_row(o.id, o.description, o.purpose, o.interaction, o.function, _box(o)) for o in section.objects]
            blocks.append("\n".join(["### Objects", OBJECTS_HEAD, *rows]))
        if section.settings:
            rows = [_row(s.element, s.description, s.mood, s.time, s.function) for s in section.settings]
            blocks.append("\n".join(["### Setting", SETTING_HEAD, *rows]))
    if analysis.phases:
        rows = [_row(p.name, p.description, p.events, _images(p)) for p in analysis.phases]
        blocks += ["## Narrative Structure", "\n".join([PHASES_HEAD, *rows])]
    return "\n\n".join(blocks)


def _row(*cells: str) -> str:
    # A cell is one line, and a pipe inside it is escaped as Markdown does: "a|b" is written "a\\|b".
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _box(entity: Character | Object) -> str:
    return str(entity.box) if entity.box else entity.box_text


def _images(phase: Phase) -> str:
    return phase.images_text or ", ".join(map(str, phase.images))
