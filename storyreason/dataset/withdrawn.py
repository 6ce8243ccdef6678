"""What was withdrawn from a data set: a list beside its shards, which travels with every version of it.

Films, and people or things in one, so that they stay away when the film is built, imported or added again. One JSON object on
each line of `withdrawn.jsonl`:

    {"film": "clara"}
    {"film": "clara", "entity": "char7", "places": [{"scene": 3, "frame": 81, "box": [10, 20, 60, 140], "width": 640,
     "height": 360}, ...]}
    {"film": "anton", "entity": "char2", "stories": ["anton-1", "anton-4"]}

A person is known by where the detections were, in pixels, not by an ID or an embedding: that also holds for another
detector, and nothing that tells what the person looks like is kept. Stories that do not say their frames are named instead.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storyreason import pictures, runs
from storyreason.dataset.films import films
from storyreason.dataset.shards import Example
from storyreason.errors import DataError
from storyreason.format import analysis

FILE = "withdrawn.jsonl"


class Place(BaseModel):
    """Where a detection of what was withdrawn was: scene and frame in its film, and the box in pixels.

    `width` and `height` are those of the frame then. Entries of older versions lack them: their boxes are taken as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scene: int
    frame: int
    box: tuple[float, float, float, float]
    width: int | None = None
    height: int | None = None

    def scaled(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The box in a frame of another size.

        >>> Place(scene=0, frame=0, box=(10, 20, 30, 40), width=100, height=50).scaled(200, 200)
        (20.0, 80.0, 60.0, 160.0)
        """
        across, down = width / (self.width or width), height / (self.height or height)
        x1, y1, x2, y2 = self.box
        return x1 * across, y1 * down, x2 * across, y2 * down


class Withdrawn(BaseModel):
    """A film, or one of its people or things, that is withdrawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    film: Annotated[str, Field(min_length=1)]
    entity: str | None = None
    """What its ID was; None: the whole film."""
    places: tuple[Place, ...] = ()
    stories: tuple[str, ...] = ()

    def shown_by(self, example: Example) -> bool:
        """Whether a story is of the film and has a picture that shows the entity; if frames are not known, its ID."""
        if film_of(example) != self.film:
            return False
        if self.entity is None:
            return True
        if example.origin is not None and self.places:
            shown = list(zip(example.origin.scene, example.origin.frame, strict=True))
            return bool(again(self.frames, shown))
        read, _ = analysis.read(example.chain_of_thought)
        rows = (row.id for section in read.sections for row in section.entities)
        return example.story_id in self.stories or self.entity in rows

    @property
    def frames(self) -> frozenset[tuple[int, int]]:
        """Scene and frame of each place."""
        return frozenset((place.scene, place.frame) for place in self.places)


def again(places: Iterable[tuple[int, int]], film: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int]]:
    """Where places (scene and frame) are among those of a film that may be cut elsewhere now.

    The frame alone says it, unless one side counts frames anew in each scene.
    """
    places, film = set(places), set(film)
    if any(len({frame for _, frame in side}) < len(side) for side in (places, film)):
        return {place: place for place in places & film}
    by_frame = {frame: (scene, frame) for scene, frame in film}
    return {place: by_frame[place[1]] for place in places if place[1] in by_frame}


def film_of(example: Example) -> str:
    """The film of a story."""
    return example.origin.film if example.origin is not None else films([example.story_id])[example.story_id]


def places(example: Example, entity: str) -> list[Place]:
    """Where a story shows an entity; empty if it does not say its frames."""
    if example.origin is None:
        return []
    read, _ = analysis.read(example.chain_of_thought)
    return [
        Place(
            scene=example.origin.scene[at],
            frame=example.origin.frame[at],
            box=tuple(map(float, row.box)),
            **_size(example.images[at]),
        )
        for section in read.sections
        if 0 <= (at := section.image - 1) < len(example.images)
        for row in section.entities
        if row.id == entity and row.box is not None
    ]


def _size(image: bytes) -> dict[str, int]:
    """Width and height; nothing of a picture that cannot be read, which must not keep its story from being withdrawn."""
    try:
        return dict(zip(("width", "height"), pictures.size(image), strict=True))
    except pictures.PictureError:
        return {}


def read(folder: Path) -> list[Withdrawn]:
    """What was withdrawn from the data set in a folder. Raises DataError that names file and line."""
    path = folder / FILE
    return parse(path.read_bytes(), str(path)) if path.is_file() else []


def parse(content: bytes, name: str) -> list[Withdrawn]:
    """The list in a file's content. Raises DataError that names the line; `name` is what it calls the file."""
    found = []
    for number, line in enumerate(content.decode(errors="replace").split("\n"), 1):
        if line.strip():
            try:
                found.append(Withdrawn.model_validate_json(line))
            except ValidationError as error:
                raise DataError(
                    f"{name}, line {number}, does not say what was withdrawn ({error.errors()[0]['msg']}): take the file from "
                    'an earlier version, or write {"film": "…"}.'
                ) from error
    return found


def joined(*lists: Iterable[Withdrawn]) -> list[Withdrawn]:
    """One list of several, sorted, each entry once; a film that is withdrawn covers its people."""
    every = {one for entries in lists for one in entries}
    whole = {one.film for one in every if one.entity is None}
    return sorted((one for one in every if one.entity is None or one.film not in whole), key=_line)


def write(entries: Sequence[Withdrawn], folder: Path) -> None:
    """Write the list of a data set; nothing for none."""
    if entries:
        runs.write_text(folder / FILE, "".join(f"{_line(one)}\n" for one in entries))


def _line(one: Withdrawn) -> str:
    return one.model_dump_json(exclude_defaults=True)
