"""The sample world's looks, things, landmarks, places and lights, and which of them only the test split has.

A person *is* a look: who wears the red coat and the straw hat in image 1 is the same person in image 4.
"""

import itertools
import random
from dataclasses import dataclass
from typing import Literal

WIDTH, HEIGHT = 196, 112
"""Pixels of a frame: multiples of 28, so that Qwen2.5-VL's processor keeps the size (14-pixel patches, merged 2x2)."""

Part = Literal["train", "test"]
Pose = Literal["stand", "wave", "walk"]
Shape = Literal["ball", "kite", "umbrella", "suitcase", "lantern", "dog", "bicycle", "drum"]
Building = Literal["lighthouse", "clock tower", "windmill", "bridge"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 40, 44),
    "blue": (44, 84, 200),
    "green": (34, 142, 66),
    "yellow": (244, 204, 44),
    "purple": (136, 58, 164),
    "orange": (240, 128, 30),
    "white": (244, 244, 240),
    "black": (40, 38, 46),
}
HAIR: dict[str, tuple[int, int, int]] = {
    "black": (34, 30, 34),
    "brown": (122, 72, 34),
    "blond": (238, 206, 104),
    "grey": (166, 168, 176),
}
HATS = ("", "straw hat", "top hat")
COATS = tuple(COLOURS)
SEXES: tuple[Literal["woman", "man"], ...] = ("woman", "man")
NAMES = {
    "woman": ("Mara", "Anna", "Ida", "Clara", "Nora", "Lucy", "Vera", "Ella", "Rosa", "Julia"),
    "man": ("Tom", "Paul", "Leo", "Hugo", "Max", "Oscar", "Felix", "Adam", "Simon", "Victor"),
}


@dataclass(frozen=True, slots=True)
class Look:
    """A person's appearance, which is also the person's identity."""

    sex: Literal["woman", "man"]
    coat: str
    hair: str
    hat: str = ""

    def __str__(self) -> str:
        """`a woman in a red coat with black hair and a straw hat`"""
        article = "an" if self.coat[0] in "aeiou" else "a"
        hat = f" and a {self.hat}" if self.hat else ""
        return f"a {self.sex} in {article} {self.coat} coat with {self.hair} hair{hat}"


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that can be carried, flown or walked: `a red kite`."""

    shape: Shape
    colour: str

    def __str__(self) -> str:
        return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Landmark:
    building: Building

    def __str__(self) -> str:
        return f"a {self.building}"


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of place. `region` is a part of the background that some of its frames show, "" if none."""

    name: str
    phrase: str
    ground: tuple[int, int, int]
    region: str = ""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the background over the whole width: `the sea`."""

    name: str

    def __str__(self) -> str:
        return f"the {self.name}"


@dataclass(frozen=True, slots=True)
class Light:
    """A time of day: the sky's colours at the zenith and at the horizon, and how bright the ground is."""

    name: str
    phrase: str
    zenith: tuple[int, int, int]
    horizon: tuple[int, int, int]
    ground: float


Entity = Look | Thing | Landmark | Region

PLACES = (
    Place("harbour", "at the harbour", (176, 166, 150), "sea"),
    Place("meadow", "in the meadow", (150, 186, 104)),
    Place("village", "in the village", (190, 172, 140), "row of houses"),
    Place("desert", "in the desert", (226, 196, 132)),
    Place("valley", "in the snowy valley", (226, 232, 240), "mountains"),
    Place("park", "in the park", (128, 172, 116)),
    Place("forest", "at the edge of the forest", (142, 150, 96), "forest"),
    Place("square", "on the square", (184, 180, 186)),
)
LIGHTS = (
    Light("Morning", "in the morning", (150, 196, 236), (250, 222, 198), 1.0),
    Light("Noon", "at noon", (92, 164, 236), (206, 232, 248), 1.05),
    Light("Evening", "in the evening", (118, 96, 164), (250, 168, 112), 0.88),
    Light("Night", "at night", (38, 44, 92), (104, 116, 168), 0.7),
)
LANDMARKS: tuple[Building, ...] = ("lighthouse", "clock tower", "windmill", "bridge")
THINGS: dict[Shape, tuple[str, ...]] = {
    "ball": ("red", "blue", "yellow"),
    "kite": ("red", "green", "purple"),
    "umbrella": ("blue", "red", "purple"),
    "suitcase": ("orange", "green", "black"),
    "lantern": ("red", "green", "black"),
    "dog": ("white", "black", "orange"),
    "bicycle": ("red", "blue", "black"),
    "drum": ("red", "blue", "green"),
}


def _is_held_out(look: Look) -> bool:
    """Every fifth combination: training still has each coat, hair, hat and sex, in other combinations."""
    number = (
        COATS.index(look.coat)
        + 2 * list(HAIR).index(look.hair)
        + 3 * HATS.index(look.hat)
        + (4 if look.sex == "man" else 0)
    )
    return number % 5 == 0


def looks(part: Part) -> list[Look]:
    """The people of a split; those of `test` appear nowhere else."""
    everybody = [Look(sex, *rest) for sex in SEXES for rest in itertools.product(COATS, HAIR, HATS)]
    return [look for look in everybody if _is_held_out(look) == (part == "test")]


def backgrounds(part: Part) -> list[tuple[Place, Light]]:
    """The places and lights of a split; those of `test` appear nowhere else."""
    return [
        (place, light)
        for p, place in enumerate(PLACES)
        for n, light in enumerate(LIGHTS)
        if ((p + p // 4) % 4 == n) == (part == "test")
    ]


def things() -> list[Thing]:
    """All things; both splits share them."""
    return [Thing(shape, colour) for shape, colours in THINGS.items() for colour in colours]


def a_name(look: Look, taken: set[str], luck: random.Random) -> str:
    """A name that no one in the film has yet."""
    return luck.choice([name for name in NAMES[look.sex] if name not in taken])
