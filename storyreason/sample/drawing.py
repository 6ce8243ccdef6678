"""Draws a frame with Pillow. Every figure fills its box to the last pixel, so that the boxes are exact."""

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from storyreason.format.boxes import Box
from storyreason.sample.world import (
    COLOURS,
    HAIR,
    HEIGHT,
    WIDTH,
    Entity,
    Landmark,
    Light,
    Look,
    Place,
    Pose,
    Region,
    Thing,
)

SCALE = 2
"""Frames are drawn this many times larger and then shrunk: smooth edges without an anti-aliasing library."""

Colour = tuple[int, int, int]
SKIN: Colour = (242, 204, 170)
DARK: Colour = (46, 40, 52)


@dataclass(frozen=True, slots=True)
class PlacedEntity:
    """An entity in a frame: where it is, and what a person does there."""

    entity: Entity
    box: Box
    pose: Pose = "stand"


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything that one image shows. `horizon` is in pixels from the top; `grain` seeds clouds, stars and tufts; `size`
    is width and height in pixels."""

    place: Place
    light: Light
    horizon: int
    grain: int
    placed: tuple[PlacedEntity, ...]
    size: tuple[int, int] = (WIDTH, HEIGHT)


class _Pen:
    """Draws in the unit square of a box, from (0, 0), its upper left corner, to (1, 1), its lower right corner."""

    def __init__(self, image: Image.Image, box: Box) -> None:
        self.draw = ImageDraw.Draw(image)
        # Pillow's corners are inclusive: the last pixel of a box is one before its x2.
        self.x, self.y = box.x1 * SCALE, box.y1 * SCALE
        self.w, self.h = (box.x2 - box.x1) * SCALE - 1, (box.y2 - box.y1) * SCALE - 1

    def at(self, points: Sequence[float]) -> list[tuple[float, float]]:
        pairs = zip(points[::2], points[1::2], strict=True)
        return [(round(self.x + u * self.w), round(self.y + v * self.h)) for u, v in pairs]

    def polygon(self, colour: Colour, *points: float, line: bool = True) -> None:
        self.draw.polygon(self.at(points), fill=colour, outline=DARK if line else None)

    def ellipse(self, colour: Colour | None, *points: float, width: int = 1, edge: Colour = DARK) -> None:
        self.draw.ellipse(self.at(points), fill=colour, outline=edge, width=width)

    def rectangle(self, colour: Colour, *points: float, line: bool = True) -> None:
        self.draw.rectangle(self.at(points), fill=colour, outline=DARK if line else None)

    def line(self, colour: Colour, width: int, *points: float) -> None:
        self.draw.line(self.at(points), fill=colour, width=width)

    def pie(self, colour: Colour, start: int, end: int, *points: float) -> None:
        self.draw.pieslice(self.at(points), start, end, fill=colour, outline=DARK)


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (max(0, min(255, round(part * factor))) for part in colour)
    return red, green, blue


def _person(pen: _Pen, look: Look, pose: Pose) -> None:
    coat, hair = COLOURS[look.coat], HAIR[look.hair]
    woman = look.sex == "woman"
    trousers: Colour = (70, 74, 104) if not woman else SKIN
    top = 0.08 if look.hat else 0.0
    if woman:  # long hair falls behind the shoulders
        pen.polygon(hair, 0.26, top + 0.10, 0.74, top + 0.10, 0.80, 0.40, 0.20, 0.40)
    feet = (0.20, 0.80) if pose == "walk" else (0.36, 0.64)
    for hip, foot in zip((0.40, 0.60), feet, strict=True):
        pen.polygon(trousers, hip - 0.09, 0.70, hip + 0.09, 0.70, foot + 0.08, 0.97, foot - 0.08, 0.97)
        pen.rectangle(DARK, foot - 0.13, 0.95, foot + 0.11, 1.0)
    # arms: one always reaches x = 0, the other x = 1
    pen.polygon(_shade(coat, 0.86), 0.32, 0.32, 0.36, 0.42, 0.10, 0.60, 0.02, 0.55)
    pen.ellipse(SKIN, 0.0, 0.54, 0.15, 0.62)
    if pose == "wave":
        pen.polygon(_shade(coat, 0.86), 0.64, 0.42, 0.68, 0.31, 0.90, 0.13, 0.99, 0.17)
        pen.ellipse(SKIN, 0.85, 0.07, 1.0, 0.15)
    else:
        pen.polygon(_shade(coat, 0.86), 0.64, 0.42, 0.68, 0.32, 0.98, 0.55, 0.90, 0.60)
        pen.ellipse(SKIN, 0.85, 0.54, 1.0, 0.62)
    if woman:
        pen.polygon(coat, 0.32, 0.30, 0.68, 0.30, 0.92, 0.80, 0.08, 0.80)
    else:
        pen.polygon(coat, 0.24, 0.30, 0.76, 0.30, 0.78, 0.73, 0.22, 0.73)
        pen.line(DARK, 1, 0.5, 0.31, 0.5, 0.73)
    pen.ellipse(hair, 0.27, top, 0.73, top + 0.22)
    pen.ellipse(SKIN, 0.31, top + 0.06, 0.69, top + 0.27)
    for eye in (0.42, 0.58):
        pen.rectangle(DARK, eye - 0.015, top + 0.14, eye + 0.015, top + 0.16)
    pen.line((190, 80, 80), 2, 0.44, top + 0.215, 0.56, top + 0.215)
    if look.hat == "straw hat":
        pen.ellipse((226, 184, 92), 0.08, 0.06, 0.92, 0.14)
        pen.rectangle((226, 184, 92), 0.32, 0.0, 0.68, 0.10)
        pen.rectangle((170, 60, 50), 0.32, 0.065, 0.68, 0.09, line=False)
    elif look.hat == "top hat":
        pen.rectangle(DARK, 0.14, 0.105, 0.86, 0.125)
        pen.rectangle((60, 54, 70), 0.28, 0.0, 0.72, 0.115)


def _ball(pen: _Pen, colour: Colour) -> None:
    pen.ellipse(colour, 0, 0, 1, 1)
    pen.pie((250, 250, 250), 200, 250, 0, 0, 1, 1)
    pen.pie((250, 250, 250), 20, 70, 0, 0, 1, 1)
    pen.ellipse((250, 250, 250), 0.38, 0.38, 0.62, 0.62)


def _kite(pen: _Pen, colour: Colour) -> None:
    pen.polygon(colour, 0.5, 0, 1, 0.36, 0.5, 0.80, 0, 0.36)
    pen.polygon(_shade(colour, 1.35), 0.5, 0, 0.5, 0.80, 0, 0.36)
    pen.line(DARK, 2, 0, 0.36, 1, 0.36)
    pen.line(DARK, 1, 0.5, 0.80, 0.42, 0.88, 0.58, 0.94, 0.5, 1)
    pen.polygon((250, 220, 80), 0.36, 0.84, 0.46, 0.89, 0.36, 0.94)


def _umbrella(pen: _Pen, colour: Colour) -> None:
    pen.line((110, 74, 40), 3, 0.5, 0.06, 0.5, 0.90)
    pen.draw.arc(pen.at((0.5, 0.80, 0.70, 1.0)), 0, 180, fill=(110, 74, 40), width=3)
    pen.pie(colour, 180, 360, 0, 0, 1, 1)
    pen.pie(_shade(colour, 1.35), 180, 360, 0.33, 0, 0.67, 1)


def _suitcase(pen: _Pen, colour: Colour) -> None:
    pen.rectangle(DARK, 0.34, 0.0, 0.66, 0.26)
    pen.rectangle((214, 206, 190), 0.42, 0.09, 0.58, 0.26)
    pen.rectangle(colour, 0, 0.20, 1, 1)
    for strap in (0.16, 0.74):
        pen.rectangle(_shade(colour, 0.6), strap, 0.20, strap + 0.10, 1)
    pen.rectangle((250, 224, 120), 0.44, 0.26, 0.56, 0.38)


def _lantern(pen: _Pen, colour: Colour) -> None:
    pen.ellipse(None, 0.28, 0, 0.72, 0.32, width=3)
    pen.polygon(colour, 0.5, 0.14, 0.94, 0.34, 0.06, 0.34)
    pen.rectangle((255, 232, 120), 0.12, 0.34, 0.88, 0.84)
    pen.ellipse((255, 250, 220), 0.34, 0.42, 0.66, 0.80, edge=(250, 180, 60))
    for bar in (0.12, 0.80):
        pen.rectangle(colour, bar, 0.34, bar + 0.08, 0.84)
    pen.rectangle(colour, 0, 0.84, 1, 1)


def _dog(pen: _Pen, colour: Colour) -> None:
    pen.polygon(colour, 0.0, 0.18, 0.08, 0.14, 0.24, 0.46, 0.14, 0.54)
    for leg in (0.14, 0.30, 0.54, 0.68):
        pen.rectangle(colour, leg, 0.66, leg + 0.11, 1)
    pen.ellipse(colour, 0.10, 0.40, 0.82, 0.80)
    pen.ellipse(colour, 0.54, 0.04, 0.92, 0.54)
    pen.ellipse(colour, 0.74, 0.22, 1.0, 0.46)
    pen.polygon(_shade(colour, 0.7), 0.56, 0.0, 0.70, 0.08, 0.60, 0.36, 0.50, 0.30)
    pen.ellipse(DARK, 0.93, 0.27, 1.0, 0.35)
    pen.ellipse((255, 255, 255), 0.74, 0.16, 0.82, 0.24)
    pen.line((220, 60, 60), 3, 0.60, 0.50, 0.80, 0.54)


def _bicycle(pen: _Pen, colour: Colour) -> None:
    for wheel in (0.0, 0.56):
        pen.ellipse(None, wheel, 0.40, wheel + 0.44, 1, width=3)
        pen.ellipse(None, wheel + 0.17, 0.64, wheel + 0.27, 0.76, width=2)
    pen.line(colour, 4, 0.22, 0.70, 0.36, 0.30, 0.66, 0.30, 0.46, 0.70, 0.22, 0.70)
    pen.line(colour, 4, 0.46, 0.70, 0.34, 0.24)
    pen.line(colour, 4, 0.78, 0.70, 0.64, 0.10)
    pen.line(DARK, 4, 0.56, 0.03, 0.76, 0.03)
    pen.draw.rectangle(pen.at((0.56, 0.0, 0.74, 0.06)), fill=DARK)
    pen.rectangle(DARK, 0.24, 0.18, 0.46, 0.26)


def _drum(pen: _Pen, colour: Colour) -> None:
    pen.ellipse(_shade(colour, 0.8), 0, 0.64, 1, 1)
    pen.polygon(colour, 0, 0.22, 1, 0.22, 1, 0.82, 0, 0.82)
    pen.line((250, 236, 190), 2, 0.02, 0.34, 0.26, 0.84, 0.5, 0.40, 0.74, 0.84, 0.98, 0.34)
    pen.ellipse((250, 244, 226), 0, 0.04, 1, 0.42)
    pen.line((140, 94, 50), 3, 0.20, 0.02, 0.52, 0.26)
    pen.line((140, 94, 50), 3, 0.80, 0.02, 0.58, 0.26)


def _lighthouse(pen: _Pen) -> None:
    pen.polygon((246, 244, 240), 0.30, 0.24, 0.70, 0.24, 0.86, 0.94, 0.14, 0.94)
    for low in (0.38, 0.64):
        left, right = 0.30 - 0.16 * (low - 0.24) / 0.7, 0.70 + 0.16 * (low - 0.24) / 0.7
        pen.polygon((214, 52, 48), left, low, right, low, right + 0.03, low + 0.13, left - 0.03, low + 0.13)
    pen.rectangle((255, 236, 130), 0.32, 0.12, 0.68, 0.24)
    pen.polygon((150, 40, 40), 0.5, 0, 0.78, 0.12, 0.22, 0.12)
    pen.rectangle((96, 92, 100), 0, 0.93, 1, 1)


def _clock_tower(pen: _Pen) -> None:
    pen.rectangle((176, 112, 82), 0.14, 0.26, 0.86, 1)
    pen.polygon((84, 92, 120), 0.5, 0, 1, 0.27, 0, 0.27)
    pen.ellipse((252, 250, 236), 0.24, 0.32, 0.76, 0.58, width=2)
    pen.line(DARK, 2, 0.5, 0.37, 0.5, 0.45, 0.64, 0.45)
    pen.rectangle((70, 54, 54), 0.38, 0.80, 0.62, 1)


def _windmill(pen: _Pen) -> None:
    pen.polygon((226, 214, 196), 0.36, 0.34, 0.64, 0.34, 0.78, 1, 0.22, 1)
    pen.polygon((134, 74, 54), 0.5, 0.24, 0.68, 0.36, 0.32, 0.36)
    pen.rectangle((104, 72, 52), 0.42, 0.80, 0.58, 1)
    for tip in ((0.0, 0.0), (1.0, 0.0), (0.0, 0.72), (1.0, 0.72)):
        u, v = tip
        pen.polygon((250, 246, 236), 0.5, 0.36, u, v, u + (0.16 if u == 0 else -0.16), v, 0.5, 0.40)
    pen.ellipse(DARK, 0.46, 0.33, 0.54, 0.41)


def _bridge(pen: _Pen) -> None:
    pen.polygon((160, 152, 148), 0, 0.40, 0.5, 0, 1, 0.40, 1, 1, 0, 1)
    pen.pie((84, 112, 150), 180, 360, 0.14, 0.44, 0.86, 1.55)
    for stone in (0.10, 0.90):
        pen.line((120, 112, 108), 2, stone, 0.46, stone, 0.98)
    pen.line((214, 206, 198), 3, 0, 0.42, 0.5, 0.04, 1, 0.42)


_THINGS = {
    "ball": _ball,
    "kite": _kite,
    "umbrella": _umbrella,
    "suitcase": _suitcase,
    "lantern": _lantern,
    "dog": _dog,
    "bicycle": _bicycle,
    "drum": _drum,
}
_LANDMARKS = {"lighthouse": _lighthouse, "clock tower": _clock_tower, "windmill": _windmill, "bridge": _bridge}


def _region(pen: _Pen, name: str, dim: float, luck: random.Random) -> None:
    """A region of background from edge to edge. Its top touches the box; its base is the horizon or the ground."""
    if name == "sea":
        pen.rectangle(_shade((52, 116, 176), dim), 0, 0, 1, 1, line=False)
        for _ in range(26):
            u, v = luck.uniform(0, 0.94), luck.uniform(0.1, 0.9)
            pen.line(_shade((150, 200, 228), dim), 2, u, v, u + 0.05, v)
    elif name == "row of houses":
        for number in range(7):
            left, right = number / 7, (number + 1) / 7
            wall = luck.choice(((222, 150, 118), (238, 214, 160), (190, 200, 214), (214, 178, 186)))
            pen.rectangle(_shade(wall, dim), left, 0.42, right, 1)
            pen.polygon(_shade((150, 72, 62), dim), left, 0.44, (left + right) / 2, 0, right, 0.44)
            pen.rectangle((255, 240, 170) if dim < 0.8 else (96, 112, 140), left + 0.05, 0.58, left + 0.09, 0.80)
    elif name == "mountains":
        for peak in (0.10, 0.36, 0.62, 0.88):
            high = 0.0 if peak in (0.36, 0.88) else 0.22
            pen.polygon(_shade((116, 126, 158), dim), peak, high, peak + 0.26, 1, peak - 0.26, 1)
            pen.polygon(_shade((248, 250, 255), dim), peak, high, peak + 0.08, high + 0.26, peak - 0.08, high + 0.26)
    else:  # forest
        for number in range(15):
            left, right = number / 15 - 0.02, (number + 1) / 15 + 0.02
            top = 0.0 if number % 2 else luck.choice((0.12, 0.2))
            pen.polygon(_shade((40, 96, 62), dim), (left + right) / 2, top, right, 1, left, 1)


def _background(frame: Frame) -> Image.Image:
    """Sky and ground. The light falls from the upper left, so that a spot's colours depend on its position."""
    zenith, horizon = np.array(frame.light.zenith, np.float32), np.array(frame.light.horizon, np.float32)
    ground = np.array(frame.place.ground, np.float32) * np.float32(frame.light.ground)
    width, height = frame.size
    rows = np.empty((height, 3), np.float32)
    rows[: frame.horizon] = zenith + (horizon - zenith) * np.linspace(0, 1, frame.horizon, dtype=np.float32)[:, None]
    rows[frame.horizon :] = ground * np.linspace(0.86, 1.06, height - frame.horizon, dtype=np.float32)[:, None]
    across = np.linspace(1, -1, width, dtype=np.float32)[None, :, None] * np.array([26, 6, -22], np.float32)
    pixels = np.clip(rows[:, None, :] + across, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((width * SCALE, height * SCALE), Image.Resampling.NEAREST)


def _decorate(image: Image.Image, frame: Frame, luck: random.Random) -> None:
    """Clouds, stars and tufts: decoration that no table lists."""
    draw = ImageDraw.Draw(image)
    width, height, line = frame.size[0] * SCALE, frame.size[1] * SCALE, frame.horizon * SCALE
    if frame.light.name == "Night":
        for _ in range(24):
            x, y = luck.randrange(width), luck.randrange(max(1, line - 8))
            draw.ellipse((x, y, x + 2, y + 2), fill=(236, 236, 214))
    else:
        red, green, blue = (round((part + 255) / 2) for part in frame.light.horizon)
        for _ in range(2):
            x, y = luck.randrange(width), luck.randrange(8, max(9, line // 2))
            for shift, size in ((0, 10), (12, 14), (26, 10)):
                draw.ellipse((x + shift, y - size // 2, x + shift + 2 * size, y + size // 2), fill=(red, green, blue))
    tuft = _shade(frame.place.ground, 0.78 * frame.light.ground)
    for _ in range(18):
        x, y = luck.randrange(width), luck.randrange(line + 6, height)
        draw.line((x, y, x + 6, y), fill=tuft, width=2)


def _draw_entity(image: Image.Image, placed: PlacedEntity, dim: float, luck: random.Random) -> None:
    pen, entity = _Pen(image, placed.box), placed.entity
    if isinstance(entity, Look):
        _person(pen, entity, placed.pose)
    elif isinstance(entity, Thing):
        _THINGS[entity.shape](pen, COLOURS[entity.colour])
    elif isinstance(entity, Landmark):
        _LANDMARKS[entity.building](pen)
    else:
        _region(pen, entity.name, dim, luck)


def draw(frame: Frame) -> Image.Image:
    """The frame as an RGB picture of its size; regions behind landmarks, landmarks behind people and things."""
    luck = random.Random(frame.grain)
    image = _background(frame)
    _decorate(image, frame, luck)
    depth: dict[type[Any], int] = {Region: 0, Landmark: 1, Look: 2, Thing: 3}
    for placed in sorted(frame.placed, key=lambda one: depth[type(one.entity)]):
        _draw_entity(image, placed, frame.light.ground, luck)
    return image.reduce(SCALE)


def encode(image: Image.Image) -> bytes:
    """A picture as JPEG, about 4 kB."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
