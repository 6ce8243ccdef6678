"""The analysis (chain of thought): what stands in each image, as Markdown tables, to objects and back."""

from dataclasses import dataclass
from typing import Literal

from storyreason.boxes import Box

SETTING_ELEMENTS = (
    "Location", "Environment", "Lighting", "Weather", "Time Period", "Architecture", "Interior Design", "Atmosphere",
    "Background",
)  # fmt: skip
PHASES = ("Introduction", "Development", "Conflict", "Turning Point", "Conclusion")

Kind = Literal["char", "obj", "lm", "bg"]
"""What an entity is, as its ID says: people, things, landmarks, background."""


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
    line: int = 0


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
    line: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of an image's Setting table."""

    element: str
    description: str
    mood: str
    time: str
    function: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Phase:
    """One row of the Narrative Structure table. `images` are numbers from 1 (`"2-4"` reads as 2, 3, 4)."""

    name: str
    description: str
    events: str
    images: tuple[int, ...]
    images_text: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Section:
    """Everything under one `## Image N` heading."""

    image: int
    characters: tuple[Character, ...] = ()
    objects: tuple[Object, ...] = ()
    settings: tuple[Setting, ...] = ()
    line: int = 0


@dataclass(frozen=True, slots=True)
class Analysis:
    """The whole chain of thought, sections in the order of the text."""

    sections: tuple[Section, ...] = ()
    phases: tuple[Phase, ...] = ()
