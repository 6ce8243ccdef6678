"""Coherence: does a story stay with its entities, in order and without repeating itself?

Everything is counted from the tags and tables of the text: a tag names its entity, so chains of mentions are exact and
need no coreference model. The passages of a story, one for each frame, are the units that the literature calls sentences.

Sources: the entity grid from Barzilay and Lapata 2008, "Modeling Local Coherence: An Entity-Based Approach", section 3;
the entity graph from Guinaudeau and Strube 2013, "Graph-based Local Coherence Modeling", section 3; the order of phases by
Kendall's tau, Lapata 2006, "Automatic Evaluation of Information Ordering", section 2; repetition is seq-rep-4 of Welleck et
al. 2020, "Neural Text Generation with Unlikelihood Training", section 6.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Literal

from storyreason.format.analysis import Analysis
from storyreason.format.kinds import kind_of
from storyreason.format.story import Mention, Story
from storyreason.format.tables import PHASES, Phase
from storyreason.scoring import length
from storyreason.scoring.metrics import Score, rate

RUN = 4
"""Words in a run that counts as repeated."""


def scores() -> Iterator[Score]:
    """The scores of this group in the catalogue. None of them looks at boxes."""
    grid, graph = "Barzilay and Lapata 2008, section 3", "Guinaudeau and Strube 2013, section 3"
    for side, of in (("", "the answer"), ("reference", "the reference")):
        at = f"coherence/{side}" if side else "coherence"
        name, title = (f"strict/coherence/{side}_", "reference's ") if side else ("strict/coherence/", "")
        better: Literal["higher"] | None = None if side else "higher"
        yield Score(
            f"{name}continuity", f"{title}entity continuity", rate(f"{at}/continued", f"{at}/transitions"),
            f"Share of the pairs of neighbouring frames whose passages mention an entity in common, in {of}.", grid,
            better=better,
        )  # fmt: skip
        yield Score(
            f"{name}entity_graph", f"{title}entity graph", rate(f"{at}/graph", f"{at}/frames"),
            f"Mean out-degree of the graph of passages, linked by common entities and weighted by distance, in {of}.", graph,
            better=better, decimals=2,
        )  # fmt: skip
        yield Score(
            f"{name}mentions_per_chain", f"{title}mentions per coreference chain", rate(f"{at}/chains/links", f"{at}/chains"),
            f"Mentions of an entity in {of}: the length of its coreference chain, which the tags give exactly.",
            better=None, decimals=2,
        )  # fmt: skip
        yield Score(
            f"{name}chains_across_frames", f"{title}chains across frames", rate(f"{at}/chains/across", f"{at}/chains"),
            f"Share of the coreference chains of {of} that reach two frames or more.", better=None,
        )  # fmt: skip
        for kind, of_kind in (("", ""), ("char", ", characters")):
            present = f"{at}/present/{kind}" if kind else f"{at}/present"
            yield Score(
                f"{name}told_where_present{f'/{kind}' if kind else ''}", f"{title}presence told{of_kind}",
                rate(f"{present}/told", present),
                f"Share of the entities in the tables of {of}, frame by frame, that the passage of the frame mentions{of_kind}.",
                better=better,
            )  # fmt: skip
        yield Score(
            f"{name}phases_in_order", f"{title}phases in order", rate(f"{at}/phase_pairs/ordered", f"{at}/phase_pairs"),
            f"Share of the pairs of phases whose images follow in the published order, in {of}; a missing phase has none.",
            "Kendall's tau, as a share of pairs; Lapata 2006, section 2", better=better,
        )  # fmt: skip
    yield Score(
        "strict/coherence/repetition", "repetition", rate("coherence/repeated_runs", "coherence/runs"),
        "Share of the runs of four words in the answer's story that stood there before.",
        "seq-rep-4, Welleck et al. 2020, section 6", better="lower",
    )  # fmt: skip


def count(
    reference: Analysis, reference_story: Story, predicted: Analysis, predicted_story: Story, frames: int
) -> dict[str, float]:
    """One story's counts, of the answer and of the reference (`coherence/reference/...`).

    `frames` is the number of frames.
    """
    runs, repeated = repetition(length.words(predicted_story))
    return {
        **_side("coherence", predicted, predicted_story, frames),
        **_side("coherence/reference", reference, reference_story, frames),
        "coherence/runs": runs,
        "coherence/repeated_runs": repeated,
    }


def repetition(words: Sequence[str]) -> tuple[int, int]:
    """How many runs of `RUN` words a text has, and how many of them stood there before.

    >>> repetition("la la la la la the end".split())
    (4, 1)
    """
    runs = list(zip(*(words[start:] for start in range(RUN)), strict=False))
    return len(runs), len(runs) - len(set(runs))


def _side(at: str, analysis: Analysis, story: Story, frames: int) -> dict[str, float]:
    """The counts of one text.

    - `transitions`: pairs of neighbouring frames; `continued`: those whose passages have an entity in common;
    - `graph`: the sum over pairs of passages with a common entity of 1 / their distance in frames;
    - `chains`: entities that the story mentions; `chains/links`: their mentions; `chains/across`: those in two frames or more;
    - `present`: entities in the tables, once for each frame; `present/told`: those that the frame's passage mentions;
    - `phase_pairs`: pairs of the five phases; `phase_pairs/ordered`: those whose images follow in the published order.
    """
    told: dict[int, set[str]] = {image: set() for image in range(1, frames + 1)}
    links: Counter[str] = Counter()
    images: dict[str, set[int]] = defaultdict(set)
    for passage in story.passages:
        for part in passage.parts:
            if isinstance(part, Mention) and passage.image in told:
                told[passage.image].update(part.ids)
                links.update(part.ids)
                for id in part.ids:
                    images[id].add(passage.image)
    rows = {(section.image, row.id) for section in analysis.sections for row in section.entities}
    people = {row for row in rows if kind_of(row[1]) == "char"}
    seen = {(image, id) for image, ids in told.items() for id in ids}
    return {
        f"{at}/frames": frames,
        f"{at}/transitions": max(0, frames - 1),
        f"{at}/continued": sum(bool(told[a] & told[b]) for a, b in pairwise(told)),
        f"{at}/graph": sum(1 / (b - a) for a, b in combinations(told, 2) if told[a] & told[b]),
        f"{at}/chains": len(links),
        f"{at}/chains/links": links.total(),
        f"{at}/chains/across": sum(len(where) > 1 for where in images.values()),
        f"{at}/present": len(rows),
        f"{at}/present/told": len(rows & seen),
        f"{at}/present/char": len(people),
        f"{at}/present/char/told": len(people & seen),
        **_phases(at, analysis.phases),
    }


def _phases(at: str, phases: Sequence[Phase]) -> dict[str, float]:
    """Two phases are in order if the mean of the earlier one's images is at most that of the later one; a phase that is
    missing, or names no image, is in order with none."""
    places: Mapping[str, float] = {
        phase.name: sum(phase.images) / len(phase.images) for phase in phases if phase.images
    }
    pairs = list(combinations(PHASES, 2))
    ordered = sum(a in places and b in places and places[a] <= places[b] for a, b in pairs)
    return {f"{at}/phase_pairs": len(pairs), f"{at}/phase_pairs/ordered": ordered}
