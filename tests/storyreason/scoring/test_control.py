"""Controls: what a score keeps where the pictures are wrong."""

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storyreason import dataset, sample
from storyreason.format import analysis, answer
from storyreason.format.boxes import Box
from storyreason.scoring import Reference, Scorecard, control, score
from storyreason.scoring.catalogue import BOX_F1, IDF1, SCORES, VALID, compares_boxes

HALLUCINATIONS = "strict/references/hallucinations_per_100_mentions"


@pytest.fixture(scope="module")
def stories() -> list[dataset.Example]:
    return list(sample.examples("test", films=12))


@pytest.fixture(scope="module")
def card(stories: list[dataset.Example]) -> Scorecard:
    return scored(map(Reference.of, stories))


def scored(references: Iterable[Reference]) -> Scorecard:
    """The scorecard of references that answer themselves."""
    references = list(references)
    told = {one.story_id: answer.join(one.chain_of_thought, one.story) for one in references}
    return score(references, told, ("strict", "paper"), meteor=False)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 3)), max_size=30), st.randoms(use_true_random=False))
def test_a_story_is_paired_with_one_of_another_film_and_as_many_frames(
    drawn: list[tuple[str, int]], mixing: random.Random
) -> None:
    frames = {f"{film}-{number}": count for number, (film, count) in enumerate(drawn)}

    pairs = control.pairing(frames)

    for story_id, other in pairs.items():
        assert frames[other] == frames[story_id]
        assert other[0] != story_id[0]
    for story_id in frames.keys() - pairs.keys():
        assert {other[0] for other in frames if frames[other] == frames[story_id]} == {story_id[0]}
    mixed = list(frames.items())
    mixing.shuffle(mixed)
    assert control.pairing(dict(mixed)) == pairs


def test_ids_without_a_film_are_films_of_their_own() -> None:
    assert control.pairing({"1": 5, "2": 5, "3": 6}) == {"1": "2", "2": "1"}


def test_a_reference_against_another_films_is_scored_as_by_hand(
    stories: list[dataset.Example], card: Scorecard
) -> None:
    wrong = card.controls[control.REFERENCE]
    by_id = {one.story_id: Reference.of(one) for one in stories}
    # Given the other story's texts under this story's ID; all frames of the sample have one size
    swapped = [replace(by_id[other], story_id=name) for name, other in wrong.instead.items()]
    told = {name: answer.join(by_id[name].chain_of_thought, by_id[name].story) for name in wrong.instead}

    metrics = score(swapped, told, ("strict", "paper"), meteor=False).metrics()

    found = wrong.card.metrics()
    assert found.keys() >= {name for name in SCORES if compares_boxes(name) and name in metrics}
    assert {name: metrics[name] for name in found} == pytest.approx(found)


def test_boxes_compare_by_their_place_in_frames_of_another_size(
    stories: list[dataset.Example], card: Scorecard
) -> None:
    # Given the first film twice as large as the others: its frames, its answers and its references
    def larger(one: Reference) -> Reference:
        if not one.story_id.startswith(stories[0].story_id[:-1]):
            return one
        read, _ = analysis.read(one.chain_of_thought)
        sections = tuple(
            replace(
                section,
                characters=tuple(replace(row, box=twice(row.box)) for row in section.characters),
                objects=tuple(replace(row, box=twice(row.box)) for row in section.objects),
            )
            for section in read.sections
        )
        text = analysis.render(replace(read, sections=sections))
        return replace(one, sizes=tuple((2 * w, 2 * h) for w, h in one.sizes), chain_of_thought=text)

    mixed = scored(larger(Reference.of(one)) for one in stories)

    found, before = control.controlled(mixed)[BOX_F1], control.controlled(card)[BOX_F1]
    assert (found.value, found.stories) == (before.value, before.stories)
    assert found.controlled == pytest.approx(before.controlled, abs=0.01)  # halves are rounded


def twice(box: Box | None) -> Box | None:
    return Box(*(2 * side for side in box)) if box else None


def test_grounding_and_identity_come_from_the_pictures_and_validity_does_not(card: Scorecard) -> None:
    found, labels = control.controlled(card), control.labels(card)

    assert found[BOX_F1].value == found[IDF1].value == 1
    assert found[BOX_F1].high < 0.25
    assert found[IDF1].high < 0.25
    assert found[BOX_F1].above == 1
    assert found[HALLUCINATIONS].low > 50
    assert found[HALLUCINATIONS].above is None
    assert labels[BOX_F1] == labels[IDF1] == labels[HALLUCINATIONS] == "image-dependent"
    # The mean IoU of what happens to match is high in any picture.
    assert labels["strict/grounding/mean_iou"] == labels[VALID] == labels["paper/BLEU-4"] == "text-only"
    assert VALID not in found
    assert labels.keys() == card.metrics().keys()


def test_half_of_a_score_is_above_its_control() -> None:
    one = control.Controlled(BOX_F1, control.REFERENCE, value=0.6, controlled=0.2, low=0.1, high=0.3, stories=9)

    assert one.above == pytest.approx(0.5)
    assert not one.depends
    assert replace(one, high=0.19).depends


def test_silence_has_nothing_to_lose(stories: list[dataset.Example]) -> None:
    silent = score(map(Reference.of, stories), {})

    assert control.controlled(silent)[BOX_F1].controlled == 0
    assert control.labels(silent)[BOX_F1] == "unknown"
    assert control.labels(silent)[VALID] == "text-only"


def test_the_layout_of_another_story_is_text_only(stories: list[dataset.Example]) -> None:
    # Given a model that tells one and the same story of all frames of its length
    references = [Reference.of(one) for one in stories]
    typical = {len(one.sizes): answer.join(one.chain_of_thought, one.story) for one in references}

    labels = control.labels(score(references, {one.story_id: typical[len(one.sizes)] for one in references}))

    assert labels[BOX_F1] == "text-only"


def test_stories_of_one_film_have_no_control(stories: list[dataset.Example]) -> None:
    alone = scored(map(Reference.of, stories[:2]))

    assert alone.controls == {}
    assert control.controlled(alone) == {}
    assert control.labels(alone)[BOX_F1] == "unknown"


def test_a_stored_scorecard_keeps_its_controls(card: Scorecard) -> None:
    read = Scorecard.from_json(card.to_json())

    assert read.controls[control.REFERENCE].instead == card.controls[control.REFERENCE].instead
    assert control.controlled(read) == control.controlled(card)


def test_every_column_that_another_reference_changes_is_known_to_compare_boxes(
    stories: list[dataset.Example], card: Scorecard
) -> None:
    # Given every story against the reference of another: what changes, and does not describe the reference alone, compares
    wrong = card.controls[control.REFERENCE]
    by_id = {one.story_id: Reference.of(one) for one in stories}
    swapped = [replace(by_id[other], story_id=name) for name, other in wrong.instead.items()]
    told = {name: answer.join(by_id[name].chain_of_thought, by_id[name].story) for name in wrong.instead}
    before, after = (score(one, told).metrics() for one in ([by_id[name] for name in told], swapped))

    changed = {name for name in before if before[name] != after.get(name)}

    of_reference_alone = {name for name in SCORES if "/reference_" in name or "/reference/" in name}
    assert changed - of_reference_alone == {name for name in before if compares_boxes(name)}
