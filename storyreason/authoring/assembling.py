"""The data set of what was written for films: shards in the published layout, and its card."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from storyreason import dataset, pictures, runs
from storyreason.authoring.calls import Spent
from storyreason.authoring.windows import Shot, Windows
from storyreason.authoring.writing import LeftOut, Written
from storyreason.dataset import Example, Origin
from storyreason.dataset.changing import CARD, WITHOUT_LICENCE
from storyreason.dataset.films import for_testing
from storyreason.errors import DataError
from storyreason.format import tables
from storyreason.page import sheet
from storyreason.perception import frames
from storyreason.perception.frames import Frame

Place = tuple[int, int]
"""The scene and the frame of an image."""


@dataclass(frozen=True)
class Told:
    """A story, its images by their places in the film."""

    story_id: str
    places: tuple[Place, ...]
    chain_of_thought: str
    story: str


@dataclass(frozen=True)
class FilmStories:
    """What was made of a film."""

    film: str
    stories: tuple[Told, ...]
    left_out: tuple[LeftOut, ...]
    names: Mapping[str, str]
    frames: int
    left_over: int
    entities: Mapping[str, int]
    """How many there are, by kind."""
    sources: tuple[str, ...]
    spent: Spent = field(default_factory=Spent)

    @classmethod
    def of(cls, shots: Sequence[Shot], made: Windows, written: Written, spent: Spent) -> "FilmStories":
        """What was written for the windows of a film."""
        places = {
            window.story_id: tuple((shot.frame.scene, shot.frame.frame) for shot in window.shots)
            for window in made.windows
        }
        stories = (
            Told(one.story_id, places[one.story_id], one.chain_of_thought, one.story) for one in written.examples
        )
        found = {seen.entity for shot in shots for seen in shot.seen}
        return cls(
            shots[0].frame.film,
            tuple(stories),
            written.left_out,
            written.names,
            len(shots),
            made.left_over,
            dict(sorted(Counter(entity.rstrip("0123456789") for entity in found).items())),
            tuple(sorted({shot.frame.source for shot in shots})),
            spent,
        )

    def to_json(self) -> str:
        """As text; `from_json` reads it."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "FilmStories":
        """Inverse of `to_json`."""
        read = json.loads(text)
        stories = (Told(**{**one, "places": tuple(map(tuple, one["places"]))}) for one in read["stories"])
        more = {
            "stories": tuple(stories),
            "left_out": tuple(LeftOut(*one) for one in read["left_out"]),
            "sources": tuple(read["sources"]),
            "spent": Spent(**read["spent"]),
        }
        return cls(**{**read, **more})


def assemble(
    kept: Mapping[str, Path], films: Sequence[FilmStories], folder: Path, share: float, card: Mapping[str, str]
) -> None:
    """Write the data set in a new `folder`: a split for each that has stories, and the card with the entries of `card`.

    `share` of the films are for test. `kept` says which folder has the frames of a film. The same films give the
    same bytes. Raises DataError when there is no story at all.
    """
    films = sorted(films, key=lambda one: one.film)
    if not any(one.stories for one in films):
        reasons = Counter(f"{left.rule} ({left.message})" for one in films for left in one.left_out)
        why = f"most often because of {reasons.most_common(1)[0][0]}" if reasons else "as no window has a person"
        raise DataError(f"No film gave a story, {why}: see the log, and what the authoring model writes.")
    for_test = for_testing([one.film for one in films if one.stories], share)
    for split in dataset.SPLITS:
        chosen = [one for one in films if _split(one, for_test) == split]
        if chosen:
            dataset.write(_examples(kept, chosen), folder, split)
    runs.write_text(folder / CARD, _card(films, for_test, card))


def _examples(kept: Mapping[str, Path], films: Iterable[FilmStories]) -> Iterator[Example]:
    for film in films:
        found = {(one.scene, one.frame): one for one in frames.read(kept[film.film], film.film)}
        for told in film.stories:
            images = [found[place] for place in told.places]
            yield Example(
                told.story_id,
                tuple(one.image for one in images),
                told.chain_of_thought,
                told.story,
                origin=_origin(film.film, images),
            )


def _origin(film: str, images: Sequence[Frame]) -> Origin:
    return Origin(
        film,
        tuple(one.scene for one in images),
        tuple(one.frame for one in images),
        tuple(one.seconds for one in images),
        tuple(one.source for one in images),
    )


def contact_sheet(film: str, shots: Sequence[Shot]) -> str:
    """The page of a film on which a person sees whether identities hold."""
    shown = [
        {
            "scene": shot.frame.scene,
            "frame": shot.frame.frame,
            "seconds": shot.frame.seconds,
            "width": shot.frame.width,
            "height": shot.frame.height,
            "src": pictures.data_url(pictures.thumbnail(shot.frame.image, sheet.SIDE)),
            "seen": [
                {"entity": one.entity, "label": one.label, "box": list(one.box), "probability": one.probability}
                for one in shot.seen
            ],
        }
        for shot in shots
    ]
    return sheet.sheet(film, shown)


def _card(films: Sequence[FilmStories], for_test: frozenset[str], card: Mapping[str, str]) -> str:
    licence = card.get("licence", "")
    head = ["---", *([f"license: {licence}"] if licence else []), "task_categories: [image-to-text]",
            "tags: [visual-storytelling, grounding, chain-of-thought]", "configs:", "- config_name: default",
            "  data_files:"]  # fmt: skip
    used = {_split(one, for_test) for one in films}
    head += [f"  - split: {split}\n    path: {split}-*.parquet" for split in dataset.SPLITS if split in used]
    stories, images = sum(len(one.stories) for one in films), sum(len(t.places) for one in films for t in one.stories)
    lines = [
        *head, "---", "# Grounded stories of films", "",
        f"{stories} stories of {len(films)} films, with {images} images. Each story has an analysis (tables of who and what is "
        "in each image, with boxes) and a text whose tags name them; an ID is the same entity in all stories of a film. "
        "Every story keeps every rule of the format.", "",
        "| film | split | frames | in no story | stories | left out | people | other entities | sources |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
        *(_row(one, for_test) for one in films), "",
        "## How it was made", "",
        *(f"- {name}: {value}" for name, value in card.items() if name != "licence"), "",
    ]  # fmt: skip
    reasons = Counter((left.part, left.rule) for one in films for left in one.left_out)
    lines += ["## Left out", "", "Windows without a story, by what was wrong with the last attempt:", ""]
    lines += [f"- {part}, `{rule}`: {count}" for (part, rule), count in sorted(reasons.items())] or ["- none"]
    lines += ["", "## Licence and consent", ""]
    lines += [
        f"Licence: {licence}." if licence else WITHOUT_LICENCE,
        "Whether the films may be used like this, and whether the people in them agreed, is for whoever publishes it to know.",
    ]
    return "\n".join(lines) + "\n"


def _row(one: FilmStories, for_test: frozenset[str]) -> str:
    people = one.entities.get("char", 0)
    others = sum(one.entities.values()) - people
    counts = (one.frames, one.left_over, len(one.stories), len(one.left_out), people, others)
    cells = (one.film, _split(one, for_test), *counts, ", ".join(one.sources))
    return tables.markdown(map(str, cells))


def _split(one: FilmStories, for_test: frozenset[str]) -> str:
    if not one.stories:
        return "none"
    return "test" if one.film in for_test else "train"
