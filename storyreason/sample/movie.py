"""Videos of the sample world: shots with known cuts, pans, fades and flashes, and in each frame known people and things.

The camera stands still or pans over a closer view; people walk. Neighbouring shots differ in place or light. Some cuts are
fades through black, and some shots have a flash, which is no cut. The truth is a JSON file beside the video:

    {"film": "film-7", "rate": 24, "width": 392, "height": 224,
     "cuts": [{"frame": 40, "kind": "cut"}, {"frame": 91, "kind": "fade"}],
     "boxes": {"0": [{"entity": "a red kite", "label": "kite", "box": [14, 28, 84, 140]}]}}

`frame` is the first of the new shot, after the black of a fade.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from storyreason.sample.drawing import Frame, PlacedEntity, draw
from storyreason.sample.plot import kind_of
from storyreason.sample.staging import resized, stage
from storyreason.sample.world import COATS, HEIGHT, LANDMARKS, WIDTH, Entity, Landmark, Look, backgrounds, looks, things

if TYPE_CHECKING:
    from storyreason.format.boxes import Box

RATE = 24
SIZE = (2 * WIDTH, 2 * HEIGHT)
"""Pixels of a frame."""
CLOSE = (3 * WIDTH, 3 * HEIGHT)
"""Pixels of what a pan goes over."""
FADE, BLACK = 12, 4
"""Frames of a fade out or in, and of the black between them."""
SEEN = 0.25
"""The share of a box that must be in the picture."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Shot:
    """What is filmed between two cuts."""

    frame: Frame
    length: int
    pans: bool
    flash: int | None
    """Its frame at which a flash begins."""
    ends: Literal["cut", "fade"]
    walks: dict[int, int]
    """Pixels that a person, by its place in the frame, walks to the right."""


def write(folder: Path, seed: int = 7, shots: int = 12) -> tuple[Path, Path]:
    """A video and its truth, `film-SEED.mp4` and `film-SEED.json`. The same seed gives the same film."""
    import av

    folder.mkdir(parents=True, exist_ok=True)
    video, truth = folder / f"film-{seed}.mp4", folder / f"film-{seed}.json"
    told: dict[str, Any] = {
        "film": video.stem,
        "rate": RATE,
        "width": SIZE[0],
        "height": SIZE[1],
        "cuts": [],
        "boxes": {},
    }
    number, ends = 0, ""
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "18", "preset": "veryfast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE)
        for shot in plan(seed, shots):
            if ends:
                told["cuts"].append({"frame": number, "kind": ends})
            for pixels, rows in filmed(shot, fades_in=ends == "fade"):
                if rows:
                    told["boxes"][str(number)] = rows
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                number += 1
            ends = shot.ends
        container.mux(stream.encode())
    truth.write_text(json.dumps(told) + "\n")
    return video, truth


def plan(seed: int, shots: int) -> list[Shot]:
    """The shots of a film: five people with different coats, four things, two landmarks, in changing places."""
    luck = random.Random(f"sample film {seed}")
    everybody = looks("train")
    people = [luck.choice([look for look in everybody if look.coat == coat]) for coat in luck.sample(COATS, 5)]
    props, towers = luck.sample(things(), 4), [Landmark(one) for one in luck.sample(LANDMARKS, 2)]
    found: list[Shot] = []
    place, light = luck.choice(backgrounds("train"))
    for number in range(shots):
        place, light = luck.choice([one for one in backgrounds("train") if one != (place, light)])
        present: list[Entity] = [*luck.sample(people, luck.randint(1, 2)), *luck.sample(props, luck.randint(0, 1))]
        present += luck.sample(towers, luck.randint(0, 1))
        frame = stage(present, place, light, luck.choice((49, 56)), luck, with_region=bool(place.region))
        length = luck.randint(20, 48)
        walks = {at: luck.randint(-30, 30) for at, one in enumerate(frame.placed) if isinstance(one.entity, Look)}
        found.append(
            Shot(
                frame,
                length,
                pans=luck.random() < 0.3,
                flash=luck.randint(8, length - 10) if luck.random() < 0.25 else None,
                ends="fade" if luck.random() < 0.2 and number < shots - 1 else "cut",
                walks=walks,
            )
        )
    return found


def filmed(shot: Shot, fades_in: bool) -> Iterator[tuple[np.ndarray, list[Row]]]:
    """Its frames, RGB of shape [height, width, 3], and what each shows. The black after a fade belongs to it."""
    for at in range(shot.length):
        pixels, placed = _view(shot, at / max(1, shot.length - 1))
        light = min(1.0, (at + 1) / FADE) if fades_in else 1.0
        if shot.ends == "fade":
            light = min(light, (shot.length - at) / FADE)
        white = 0.0 if shot.flash is None else max(0.0, 0.95 - abs(at - shot.flash - 1) * 0.5)
        mixed = pixels * (light * (1 - white)) + 255 * white
        yield mixed.astype(np.uint8), [_row(one, box) for one, box in placed] if light > 0.5 and white < 0.5 else []
    if shot.ends == "fade":
        for _ in range(BLACK):
            yield np.zeros((SIZE[1], SIZE[0], 3), np.uint8), []


Placed = list[tuple[PlacedEntity, tuple[int, int, int, int]]]


def _view(shot: Shot, share: float) -> tuple[np.ndarray, Placed]:
    """A moment of a shot, and the boxes in it; `share` goes from 0 to 1."""
    frame = resized(shot.frame, CLOSE if shot.pans else SIZE)
    left, top = (round(share * (CLOSE[0] - SIZE[0])), CLOSE[1] - SIZE[1]) if shot.pans else (0, 0)
    if not shot.pans:
        placed = list(frame.placed)
        for at, far in shot.walks.items():
            placed[at] = replace(placed[at], box=_moved(placed[at].box, round(far * share)))
        frame = replace(frame, placed=tuple(placed))
    pixels = np.asarray(draw(frame))[top : top + SIZE[1], left : left + SIZE[0]]
    return pixels, [(one, box) for one in frame.placed if (box := _visible(one.box, left, top))]


def _moved(box: "Box", far: int) -> "Box":
    far = max(-box.x1, min(SIZE[0] - box.x2, far))
    return type(box)(box.x1 + far, box.y1, box.x2 + far, box.y2)


def _visible(box: "Box", left: int, top: int) -> tuple[int, int, int, int] | None:
    """What the picture shows of a box; None if that is too little."""
    x1, x2 = (max(0, min(SIZE[0], x - left)) for x in (box.x1, box.x2))
    y1, y2 = (max(0, min(SIZE[1], y - top)) for y in (box.y1, box.y2))
    whole = (box.x2 - box.x1) * (box.y2 - box.y1)
    return (x1, y1, x2, y2) if (x2 - x1) * (y2 - y1) >= SEEN * whole else None


def _row(placed: PlacedEntity, box: tuple[int, int, int, int]) -> Row:
    name = str(placed.entity)
    plain = getattr(placed.entity, "shape", name.partition(" ")[2])
    label = {"char": "person", "obj": plain, "lm": f"landmark: {plain}", "bg": f"background: {plain}"}
    return {"entity": name, "label": label[kind_of(placed.entity)], "box": list(box)}
