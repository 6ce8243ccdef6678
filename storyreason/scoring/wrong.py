"""Stories with the wrong frames on purpose: what a model is asked again for the controls of `storyreason.scoring.control`.

The frames at each place have the size that they had, so that the request is as long as before and boxes are in the same
pixels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from storyreason import dataset, pictures
from storyreason.dataset import Example
from storyreason.scoring.config import Asked
from storyreason.scoring.control import pairing

GREY = (128, 128, 128)


@dataclass(frozen=True, slots=True)
class Wrong:
    """An example that is shown with other frames; they are made when they are asked for."""

    example: Example
    control: Asked
    frames_of: Example
    order: tuple[int, ...]
    """Which frame of `frames_of` stands at each place, from 0."""

    @property
    def story_id(self) -> str:
        return self.example.story_id

    @property
    def instead(self) -> str:
        """What is shown: the other story's ID, the order of the frames (`3 1 2`, from 1), or `grey`."""
        orders = " ".join(str(place + 1) for place in self.order)
        return {"other-film": self.frames_of.story_id, "shuffled": orders, "grey": "grey"}[self.control]

    @property
    def images(self) -> tuple[bytes, ...]:
        """The encoded frames. Raises DataError for one that is not a picture."""
        sizes = dataset.sizes(self.example)
        if self.control == "grey":
            return tuple(map(_grey, sizes))
        shown = [self.frames_of.images[place] for place in self.order]
        return tuple(_resized(image, size) for image, size in zip(shown, sizes, strict=True))


def wrong(control: Asked, examples: Sequence[Example]) -> list[Wrong]:
    """The examples as a control shows them, in order; without those for which it cannot.

    `other-film` shows the frames of the story with which `pairing` compares; a story that has none is left out. `shuffled`
    shows every frame at another place than its own: they stand in a ring, in the order of the SHA-256 of the story's ID and
    their number, and each takes the place of the next; a story of one frame is left out.
    """
    by_id = {one.story_id: one for one in examples}
    if control == "other-film":
        pairs = pairing({one.story_id: len(one.images) for one in examples})
        others = [(by_id[name], by_id[pairs[name]]) for name in by_id if name in pairs]
        return [Wrong(one, control, other, tuple(range(len(one.images)))) for one, other in others]
    if control == "shuffled":
        return [Wrong(one, control, one, _order(one)) for one in examples if len(one.images) > 1]
    return [Wrong(one, control, one, tuple(range(len(one.images)))) for one in examples]


def _order(example: Example) -> tuple[int, ...]:
    ring = sorted(range(len(example.images)), key=lambda place: sha256(f"{example.story_id} {place}".encode()).digest())
    after = dict(zip(ring, [*ring[1:], ring[0]], strict=True))
    return tuple(after[place] for place in range(len(ring)))


def _grey(size: tuple[int, int]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, GREY).save(file, "PNG")
    return file.getvalue()


def _resized(image: bytes, size: tuple[int, int]) -> bytes:
    if pictures.size(image) == size:
        return image
    file = io.BytesIO()
    pictures.rgb(image).resize(size).save(file, "PNG")
    return file.getvalue()
