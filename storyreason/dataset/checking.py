"""Checks every example before it is used for training or scoring: cells, pictures, counts, analyses, rules, the base."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from storyreason import pictures
from storyreason.dataset.films import films
from storyreason.dataset.shards import COLUMNS, SPLITS, Example, as_stored, load
from storyreason.errors import DataError
from storyreason.format import answer, rules
from storyreason.format.answer import Answer
from storyreason.format.kinds import KINDS, OTHER, kind_of
from storyreason.format.problems import Problem

if TYPE_CHECKING:
    from storyreason.chat import Encoder

MAX_BAD = 0.01
"""A data set with a larger share of bad examples is rejected."""
NAMED = 5
"""How many bad examples a message names; the others are counted."""

UNREADABLE = frozenset({
    "answer-unreadable", "answer-truncated", "image-sections", "table-shape", "box-unreadable", "story-images",
})  # fmt: skip
"""Rules that make an example unusable if broken. Other errors are only counted and shown: one wrong ID in a long story is
worth knowing about, but no reason to reject a published data set."""


@dataclass(frozen=True, slots=True)
class Bad:
    """An example that cannot be used. `image` counts from 1; None if the fault concerns the whole example."""

    split: str
    story_id: str
    image: int | None
    reason: str

    def __str__(self) -> str:
        image = "" if self.image is None else f", image {self.image}"
        return f"{self.split} story {self.story_id}{image}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a data set contains and what is wrong with it: the data card."""

    folder: str
    stories: Mapping[str, int]
    frames: Mapping[str, int]
    entities: Mapping[str, Mapping[str, int]]
    """Table rows by split and kind (`char`, `obj`, `lm`, `bg`; `other` for IDs without a known kind)."""
    sizes: Mapping[tuple[int, int], int]
    """Number of frames by (width, height) in pixels."""
    bad: tuple[Bad, ...]
    broken_rules: Mapping[str, int]
    """Number of stories that break a rule, by rule, warnings included."""
    shared_films: tuple[str, ...]
    """Films with stories in more than one split."""
    special: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The stories whose texts contain a special token of the base, by token. It is encoded as plain text."""
    odd: Mapping[str, int] = field(default_factory=dict)
    """Number of pictures that are not ordinary, by the names in `pictures.ODD`."""

    def summary(self) -> str:
        """One line: `480 + 60 stories, 3147 frames, 2.9 entities per frame, 0 bad`."""
        frames = sum(self.frames.values())
        rows = sum(sum(kinds.values()) for kinds in self.entities.values())
        counts = " + ".join(str(count) for count in self.stories.values())
        names = " + ".join(self.stories)
        per_frame = f"{rows / frames:.1f}" if frames else "no"
        return f"{counts} stories ({names}), {frames} frames, {per_frame} entities per frame, {len(self.bad)} bad"

    def markdown(self) -> str:
        """The data card."""
        lines = ["# Data card", "", f"{self.summary()}.", "", "| | " + " | ".join(self.stories) + " |"]
        lines.append("|---|" + "---:|" * len(self.stories))
        lines.append(_row("stories", self.stories.values()))
        lines.append(_row("frames", self.frames.values()))
        for kind, names in KINDS.items():
            shares = [
                self.entities[split].get(kind, 0) / self.frames[split] if self.frames[split] else 0.0
                for split in self.stories
            ]
            lines.append(_row(f"{names.plural} per frame", [f"{share:.2f}" for share in shares]))
        common = sorted(self.sizes.items(), key=lambda item: -item[1])[:5]
        lines += ["", "Sizes in pixels: " + ", ".join(f"{w}x{h} ({count})" for (w, h), count in common) + "."]
        if self.shared_films:
            lines += ["", f"**{len(self.shared_films)} films are in both splits**, starting with {self.shared_films[0]}: "
                          "scores on them say little about unseen films."]  # fmt: skip
        if self.broken_rules:
            lines += ["", "| rule | stories that break it |", "|---|---:|"]
            lines += [_row(f"`{name}`", [count]) for name, count in sorted(self.broken_rules.items())]
        if self.special:
            lines += ["", *(f"- {told}" for told in special_told(self.special))]
        if self.odd:
            lines += ["", *(f"- {told}" for told in odd_told(self.odd))]
        if self.bad:
            lines += ["", *(f"- {bad}" for bad in self.bad[:NAMED])]
            if len(self.bad) > NAMED:
                lines.append(f"- and {len(self.bad) - NAMED} more")
        return "\n".join(lines) + "\n"


def check(folder: Path | str, encoder: "Encoder | None" = None, name: Path | str | None = None) -> Report:
    """Reads every example of every split, decodes every picture and applies every rule.

    What passes can be trained on, evaluated and shown. An example is bad if a cell is empty, if a picture does not decode,
    if `frame_count` is wrong, or if it breaks a rule in `UNREADABLE`; with the encoder of a base model, also if the base
    cannot take one of its pictures. `name` is what messages call the folder; None: its path.

    Raises DataError if shards or columns are missing, if a column has another type, if a story ID is used twice, if a split
    has no usable story, or if more than 1 % of the examples are bad; the message names story and image of the first few.
    """
    name = name or folder
    tally = _Tally(encoder)
    for split in SPLITS:
        tally.begin(split)
        for example in load(folder, split, raw=True):
            tally.add(split, example)
    report = tally.report(str(name))
    for split, count in report.stories.items():
        if count == 0:
            what = "training" if split == "train" else "evaluation"
            raise DataError(f"{name} has no stories in its {split} split, which {what} needs: add some.")
    refuse_many(name, report.bad, sum(report.stories.values()))
    for split, count in report.stories.items():
        bad = [one for one in report.bad if one.split == split]
        if len(bad) == count:
            raise DataError(f"{name}: no story of the {split} split can be used: {bad[0]}. Fix them.")
    return report


def refuse_many(folder: Path | str, bad: Sequence[Bad], total: int) -> None:
    """Raises DataError, naming the first few, if more than `MAX_BAD` of `total` examples are bad."""
    if len(bad) > MAX_BAD * total:
        shown = "; ".join(map(str, bad[:NAMED]))
        more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise DataError(
            f"{folder}: {len(bad)} of {total} stories are bad, more than {MAX_BAD:.0%}: {shown}{more}. "
            "Fix or remove them, or pull another version of the data."
        )


Fault = tuple[int | None, str]
"""What is wrong, and with which image (from 1; None for the whole example)."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """The result of checking one example. It saves later users from decoding and parsing the example again."""

    example: Example
    sizes: tuple[tuple[int, int], ...]
    """Width and height in pixels of the pictures that decode completely."""
    answer: Answer
    """Analysis and story, parsed as one answer."""
    problems: tuple[Problem, ...]
    """Every broken rule."""
    faults: tuple[Fault, ...]
    """Why the example cannot be used; empty if it can."""
    special: tuple[str, ...] = ()
    """The special tokens of the base that stand in the texts. They are encoded as plain text."""

    def bad(self, split: str) -> Bad | None:
        """The first fault as a `Bad`, or None."""
        return Bad(split, self.example.story_id, *self.faults[0]) if self.faults else None


def inspect(example: Example, encoder: "Encoder | None" = None) -> Inspected:
    """Decodes every picture of an example, parses its texts and applies every rule, once each.

    `encoder`, if given, says which pictures its base cannot take and which of its special tokens stand in the texts.
    """
    sizes, faults = _decode(example)
    read = answer.read(answer.join(example.chain_of_thought, example.story))
    problems = rules.check(read, sizes if not faults else None)
    found = [*_empty(example), *faults, *_unreadable(problems)]
    special: list[str] = []
    if encoder is not None:
        found += unfit(sizes, encoder)
        special = encoder.special_in(f"{example.chain_of_thought}\n{example.story}")
    return Inspected(example, tuple(sizes), read, tuple(problems), tuple(found), tuple(special))


def unfit(sizes: Iterable[tuple[int, int]], encoder: "Encoder") -> list[Fault]:
    """The pictures that a base cannot take; `sizes` are (width, height) in pixels."""
    return [(number, reason) for number, size in enumerate(sizes, 1) if (reason := encoder.refuses(size))]


def odd_in(example: Example) -> Counter[str]:
    """Why pictures of an example that was read with `raw` are not ordinary; those that cannot be read are left out."""
    found: Counter[str] = Counter()
    for encoded in example.images:
        with suppress(pictures.PictureError):
            found.update(pictures.odd(encoded))
    return found


def odd_told(odd: Mapping[str, int]) -> list[str]:
    """A sentence for each name in `pictures.ODD`: how many pictures, and what is done with them."""
    return [
        f"{count} {'picture has' if count == 1 else 'pictures have'} {pictures.ODD[name]} ({name}): their pixels, and boxes "
        "in them, are taken as they are stored; `data import` and `data add` store what every decoder reads alike."
        for name, count in odd.items()
    ]


def special_told(special: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence for each special token: how many stories contain it, and which is the first."""
    return [
        f"{len(ids)} stories contain {token}, which the base treats as special ({ids[0]} first): it is encoded as plain text."
        for token, ids in special.items()
    ]


@dataclass(slots=True)
class _Tally:
    encoder: "Encoder | None" = None
    stories: dict[str, int] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    entities: dict[str, Counter[str]] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    bad: list[Bad] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    split_of: dict[str, str] = field(default_factory=dict)
    special: dict[str, list[str]] = field(default_factory=dict)
    odd: Counter[str] = field(default_factory=Counter)

    def begin(self, split: str) -> None:
        self.stories[split] = self.frames[split] = 0
        self.entities[split] = Counter()

    def add(self, split: str, example: Example) -> None:
        if (other := self.split_of.get(example.story_id)) is not None:
            raise DataError(
                f"Story {example.story_id} is in {other} and again in {split}, but IDs must be unique: "
                "rename or remove one of them."
            )
        if example.story_id:
            self.split_of[example.story_id] = split
        self.stories[split] += 1
        self.frames[split] += len(example.images)
        self.odd.update(odd_in(example))
        seen = inspect(as_stored(example), self.encoder)
        for token in seen.special:
            self.special.setdefault(token, []).append(example.story_id)
        self.sizes.update(seen.sizes)
        self.broken.update({problem.rule for problem in seen.problems})
        if seen.answer.analysis:
            for section in seen.answer.analysis.sections:
                self.entities[split].update(kind_of(row.id) or OTHER for row in section.entities)
        if bad := seen.bad(split):
            self.bad.append(bad)

    def report(self, folder: str) -> Report:
        return Report(
            folder, self.stories, self.frames, self.entities, self.sizes, tuple(self.bad), self.broken, self._shared(),
            {token: tuple(ids) for token, ids in self.special.items()}, self.odd,
        )  # fmt: skip

    def _shared(self) -> tuple[str, ...]:
        if not all("-" in story_id for story_id in self.split_of):
            return ()  # the IDs do not contain the film
        splits: dict[str, set[str]] = {}
        for story_id, film in films(list(self.split_of)).items():
            splits.setdefault(film, set()).add(self.split_of[story_id])
        return tuple(sorted(film for film, where in splits.items() if len(where) > 1))


def _decode(example: Example) -> tuple[list[tuple[int, int]], list[Fault]]:
    """The sizes of the pictures that decode completely, and the faults of the others and of their number."""
    sizes: list[tuple[int, int]] = []
    faults: list[Fault] = []
    for number, encoded in enumerate(example.images, 1):
        if not encoded:
            faults.append(
                (number, "the picture does not decode (it is not in the file: embed it, its path is not enough)")
            )
            continue
        try:
            sizes.append(pictures.decoded_size(encoded))
        except pictures.PictureError as error:
            faults.append((number, f"the picture does not decode ({error})"))
    if example.frame_count is not None and example.frame_count != len(example.images):
        faults.append((None, f"frame_count is {example.frame_count}, but there are {len(example.images)} images"))
    return sizes, faults


def _empty(example: Example) -> list[Fault]:
    return [(None, f"`{column}` is empty") for column in COLUMNS if getattr(example, column) in ("", ())]


def _unreadable(problems: Iterable[Problem]) -> list[Fault]:
    return [
        (problem.image, f"{problem.message} ({problem.rule})") for problem in problems if problem.rule in UNREADABLE
    ]


def _row(name: str, values: Iterable[object]) -> str:
    return f"| {name} | " + " | ".join(map(str, values)) + " |"
