"""Negatives differ from their positives, can be read, and break what their name says and nothing else."""

from collections import Counter
from dataclasses import replace

import pytest

from storyreason import dataset, sample, scoring
from storyreason.format import answer, rules
from storyreason.scoring.control import pairing
from storyreason.training import negatives
from storyreason.training.negatives import KINDS, Kind, Told

Stories = dict[str, dataset.Example]


@pytest.fixture(scope="module")
def stories() -> Stories:
    """Forty stories of the sample world."""
    return {one.story_id: one for one in sample.examples("train", seed=5, films=20)}


def told(example: dataset.Example) -> Told:
    read = answer.read(answer.join(example.chain_of_thought, example.story))
    return Told(example.story_id, read, dataset.sizes(example))


def made(kind: Kind, stories: Stories, seed: int = 0) -> dict[str, str]:
    pairs = pairing({name: len(one.images) for name, one in stories.items()})
    found = {}
    for name, one in stories.items():
        other = told(stories[pairs[name]]) if name in pairs else None
        if (text := negatives.negative(kind, told(one), other, seed)) is not None:
            found[name] = text
    return found


def broken(stories: Stories, name: str, text: str) -> Counter[str]:
    problems = rules.check(answer.read(text), dataset.sizes(stories[name]))
    return Counter(one.rule for one in problems if rules.severity(one.rule) == "error")


@pytest.mark.parametrize("kind", KINDS)
def test_every_negative_differs_from_its_positive_and_can_be_read(kind: Kind, stories: Stories) -> None:
    texts = made(kind, stories)
    # Most stories of the sample world have one person: then nobody can be swapped.
    assert len(texts) >= (3 if kind in ("swapped-identities", "exchanged-names") else 35)
    for name, text in texts.items():
        right = told(stories[name])
        assert text != right.read.text
        assert answer.read(text).readable
        # and it would pass as an example of the data set: the pictures alone show what is wrong
        only = {"absent-mention": {"id-absent"}, "mixed-films": {"id-absent"}}.get(kind, set())
        assert broken(stories, name, text).keys() <= only
    assert made(kind, stories) == texts
    assert made(kind, stories, seed=1) != texts or kind == "moved-boxes"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_with_a_negative_shows_in_its_score_alone(kind: Kind, stories: Stories) -> None:
    for name, text in made(kind, stories).items():
        parts = scoring.reward(stories[name], text).parts
        wrong_boxes = kind in ("mixed-films", "moved-boxes", "reordered-frames")
        assert (parts["grounding"] < 1) == wrong_boxes, name
        assert (parts["identity"] < 1) == (wrong_boxes or kind == "swapped-identities"), name
        whole = scoring.reward(stories[name], told(stories[name]).read.text).parts
        assert (parts["names"] < whole["names"]) or kind != "exchanged-names", name
        assert (broken(stories, name, text)["id-absent"] == 1) or kind != "absent-mention", name


def test_a_story_that_cannot_have_a_kind_has_none(stories: Stories) -> None:
    right = told(next(iter(stories.values())))
    thought, story = right.read.analysis, right.read.story
    assert thought is not None
    assert story is not None
    short = answer.of(replace(thought, sections=thought.sections[:1]), replace(story, passages=story.passages[:1]))
    one = Told("one-1", short, right.sizes[:1])
    assert [kind for kind in KINDS if negatives.negative(kind, one, one, 0)] == []
    assert negatives.negative("mixed-films", right, None, 0) is None
    silent = Told("silent-1", answer.read("nothing"), right.sizes)
    assert [kind for kind in KINDS if negatives.negative(kind, silent, right, 0)] == []


def test_boxes_from_a_frame_of_another_size_are_scaled(stories: Stories) -> None:
    example = next(iter(stories.values()))
    right = told(example)
    twice = [(2 * w, 2 * h) for w, h in right.sizes]
    half = negatives.negative("mixed-films", replace(right, sizes=right.sizes), replace(right, sizes=twice), 0)
    assert half is not None
    pairs = {(s.image, row.id): row.box for s in right.read.analysis.sections for row in s.entities}  # type: ignore[union-attr]
    scaled = [
        (row.box, pairs[s.image, row.id])
        for s in answer.read(half).analysis.sections  # type: ignore[union-attr]
        for row in s.entities
        if row.box != pairs[s.image, row.id]
    ]
    assert scaled
    assert all(box == tuple((side + 1) // 2 for side in before) for box, before in scaled)  # type: ignore[union-attr]
