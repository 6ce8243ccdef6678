"""Statistics of a data set: counts, how entities persist across images, which words are grounded.

{"stories": 240, "unreadable": 0, "totals": {"images": 1432, "words": 60210, "mentions": 9120, …},
 "distributions": {"frames per story": {"mean": 5.9, "minimum": 5, "median": 6, "maximum": 7, "counts": {"5": 80, …}}, …},
 "across": {"analysis": {"char": {"1": 12, "2": 30, …}, …}, "story": {…}},
 "pronouns": {"he": {"person": "third", "case": "subject", "tagged": 912, "untagged": 3}, …},
 "names": {"tagged": 1800, "untagged": 2},
 "phases": {"Introduction": {"images": 240, "gdo": 1100, "gda": 700, "gdl": 160}, …},
 "transitions": {"1": {"pairs": 240, "stayed": 310, "new": 200, "returned": 0, "left": 90}, …},
 "drift": {"char": {"pairs": 800, "mean_iou": 0.21, "moved": {"10": 120, …}}, …}}
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from storyreason.dataset import Example, sizes
from storyreason.format import boxes
from storyreason.format.analysis import Analysis, Section
from storyreason.format.analysis import read as read_analysis
from storyreason.format.boxes import Box
from storyreason.format.kinds import KINDS, OTHER, kind_of
from storyreason.format.story import Mention, Story, without_tags
from storyreason.format.story import read as read_story
from storyreason.format.tables import PHASES
from storyreason.format.words import PRONOUNS, Names, untagged, words

Json = dict[str, Any]

DRIFT_STEP = 5
"""Bin width of the movement of boxes, in percent of the frame diagonal."""


def describe(examples: Iterable[Example], count_tokens: Callable[[str], int] | None = None) -> Json:
    """The statistics of a split as JSON. Reads one example at a time and only keeps counts.

    `count_tokens` returns the length of a text in tokens of a model; without it, token distributions are omitted. Examples
    whose analysis has no image section are counted as unreadable and left out. Raises DataError for unreadable pictures.
    """
    tally = _Tally()
    for example in examples:
        tally.add(example, count_tokens)
    return tally.json()


def case_of(word: str) -> str:
    """The grammatical case of a pronoun; for `her` and `you` both possible ones."""
    if word.endswith(("self", "selves")):
        return "reflexive"
    if word in {"you", "her"}:
        return "subject or object" if word == "you" else "object or possessive"
    if word == PRONOUNS[word].lower():
        return "subject"
    return "object" if word in {"me", "him", "us", "them"} else "possessive"


def person_of(word: str) -> str:
    """The grammatical person of a pronoun."""
    return {"i": "first", "we": "first", "you": "second"}.get(PRONOUNS[word].lower(), "third")


class _Tally:
    def __init__(self) -> None:
        self.stories = self.unreadable = 0
        self.totals: Counter[str] = Counter()
        self.values: dict[str, Counter[int]] = defaultdict(Counter)
        self.across: dict[str, dict[str, Counter[int]]] = {
            "analysis": defaultdict(Counter),
            "story": defaultdict(Counter),
        }
        self.tagged: Counter[str] = Counter()
        self.untagged: Counter[str] = Counter()
        self.names: Counter[str] = Counter(tagged=0, untagged=0)
        self.phases: dict[str, Counter[str]] = {phase: Counter() for phase in PHASES}
        self.transitions: dict[int, Counter[str]] = defaultdict(Counter)
        self.moved: dict[str, Counter[int]] = defaultdict(Counter)
        self.overlap: Counter[str] = Counter()

    def add(self, example: Example, count_tokens: Callable[[str], int] | None) -> None:
        self.stories += 1
        analysis, _ = read_analysis(example.chain_of_thought)
        story, _ = read_story(example.story)
        if not analysis.sections:
            self.unreadable += 1
            return
        frames = sizes(example)
        self._count(example, analysis, story, len(frames))
        self._entities(analysis.sections, story)
        self._grounded(analysis, story)
        self._movements(analysis.sections, frames)
        if count_tokens:
            self.values["tokens of the analysis"][count_tokens(example.chain_of_thought)] += 1
            self.values["tokens of the story"][count_tokens(example.story)] += 1

    def _count(self, example: Example, analysis: Analysis, story: Story, frames: int) -> None:
        length = len(words(without_tags(example.story)))
        self.totals.update(images=frames, words=length)
        self.values["frames per story"][frames] += 1
        self.values["words per story"][length] += 1
        mentions: Counter[str] = Counter(mention.kind for _, mention in _mentions(story))
        self.totals.update(mentions=mentions.total(), **mentions)
        for tag in ("gdo", "gda", "gdl"):
            self.values[f"<{tag}> per story"][mentions[tag]] += 1
        of_image: dict[int, Counter[str]] = defaultdict(Counter)
        for image, mention in _mentions(story):
            of_image[image][mention.kind] += 1
        for phase in analysis.phases:
            if phase.name in self.phases:
                for image in phase.images:
                    self.phases[phase.name].update(images=1, **of_image[image])

    def _entities(self, sections: Sequence[Section], story: Story) -> None:
        images: dict[str, set[int]] = defaultdict(set)
        for section in sections:
            present = _ids(section)
            self.values["entities per image"][len(present)] += 1
            for id_ in present:
                images[id_].add(section.image)
        mentioned: dict[str, set[int]] = defaultdict(set)
        for image, mention in _mentions(story):
            for id_ in mention.ids:
                mentioned[id_].add(image)
        kinds = Counter(kind_of(id_) for id_ in images)
        for kind, names in KINDS.items():
            self.values[f"{names.plural} per story"][kinds[kind]] += 1
            self.totals[names.plural] += kinds[kind]
        for where, of_id in (("analysis", images), ("story", mentioned)):
            for id_, seen in of_id.items():
                self.across[where][kind_of(id_) or OTHER][len(seen)] += 1
        self._transitions(sections)

    def _transitions(self, sections: Sequence[Section]) -> None:
        """`new` entities were in no earlier image; `returned` ones were, but not in the previous image."""
        before: set[str] = set()
        for last, now in pairwise(sections):
            there, here = _ids(last), _ids(now)
            before |= there
            self.transitions[last.image].update(
                pairs=1,
                stayed=len(there & here),
                new=len(here - before),
                returned=len((here & before) - there),
                left=len(there - here),
            )

    def _grounded(self, analysis: Analysis, story: Story) -> None:
        names = {row.name for section in analysis.sections for row in section.characters if row.name}
        called = {tuple(words(name)) for name in names}
        for _, mention in _mentions(story):
            said = words(mention.text)
            if len(said) == 1 and said[0] in PRONOUNS:
                self.tagged[said[0]] += 1
            elif tuple(said) in called:
                self.names["tagged"] += 1
        bare = Names(names)
        for passage in story.passages:
            for word in untagged(passage, bare):
                if word.pronoun:
                    self.untagged[word.text.lower()] += 1
                else:
                    self.names["untagged"] += 1

    def _movements(self, sections: Sequence[Section], frames: Sequence[tuple[int, int]]) -> None:
        """How far the box of an entity moved since the previous image."""
        for last, now in pairwise(sections):
            if max(last.image, now.image) > len(frames) or min(last.image, now.image) < 1:
                continue
            there, here = _boxes(last), _boxes(now)
            for id_ in there.keys() & here.keys():
                width, height = frames[last.image - 1]
                # Both relative to the first of the two frames, so that frames of different sizes can be compared.
                a, b = _centre(there[id_], frames[last.image - 1]), _centre(here[id_], frames[now.image - 1])
                way = math.hypot((a[0] - b[0]) * width, (a[1] - b[1]) * height) / math.hypot(width, height)
                kind = kind_of(id_) or OTHER
                self.moved[kind][int(100 * way) // DRIFT_STEP * DRIFT_STEP] += 1
                if frames[last.image - 1] == frames[now.image - 1]:
                    self.overlap[f"{kind} pairs"] += 1
                    self.overlap[f"{kind} iou"] += boxes.iou(there[id_], here[id_])  # type: ignore[assignment]

    def json(self) -> Json:
        said = sorted({*self.tagged, *self.untagged}, key=list(PRONOUNS).index)
        return {
            "stories": self.stories,
            "unreadable": self.unreadable,
            "totals": dict(self.totals),
            "distributions": {name: _distribution(counts) for name, counts in self.values.items()},
            "across": {
                where: {kind: _sorted(counts) for kind, counts in sorted(of_kind.items())}
                for where, of_kind in self.across.items()
            },
            "pronouns": {
                word: {
                    "person": person_of(word),
                    "case": case_of(word),
                    "tagged": self.tagged[word],
                    "untagged": self.untagged[word],
                }
                for word in said
            },
            "names": dict(self.names),
            "phases": {
                phase: {key: counts[key] for key in ("images", "gdo", "gda", "gdl")}
                for phase, counts in self.phases.items()
            },
            "transitions": {
                str(number): {key: counts[key] for key in ("pairs", "stayed", "new", "returned", "left")}
                for number, counts in sorted(self.transitions.items())
            },
            "drift": {
                kind: {
                    "pairs": counts.total(),
                    "mean_iou": self.overlap[f"{kind} iou"] / max(1, self.overlap[f"{kind} pairs"]),
                    "moved": _sorted(counts),
                }
                for kind, counts in sorted(self.moved.items())
            },
        }


def _mentions(story: Story) -> Iterable[tuple[int, Mention]]:
    return ((passage.image, part) for passage in story.passages for part in passage.parts if isinstance(part, Mention))


def _ids(section: Section) -> set[str]:
    return {row.id for row in section.entities}


def _boxes(section: Section) -> dict[str, Box]:
    return {row.id: row.box for row in section.entities if row.box}


def _centre(box: Box, size: tuple[int, int]) -> tuple[float, float]:
    """The centre of a box, in 0..1 of the frame's width and height. `size` is (width, height)."""
    return (box.x1 + box.x2) / 2 / size[0], (box.y1 + box.y2) / 2 / size[1]


def _sorted(counts: Counter[int]) -> dict[str, int]:
    return {str(value): counts[value] for value in sorted(counts)}


def _distribution(counts: Counter[int]) -> Json:
    """Mean, quantiles (nearest-rank method) and the counts."""
    total = counts.total()
    ordered = sorted(counts)

    def quantile(share: float) -> int:
        seen = 0
        for value in ordered:
            seen += counts[value]
            if seen >= share * total:
                return value
        return ordered[-1]

    return {
        "mean": sum(value * count for value, count in counts.items()) / total,
        "minimum": ordered[0],
        "median": quantile(0.5),
        "p95": quantile(0.95),
        "maximum": ordered[-1],
        "counts": _sorted(counts),
    }
