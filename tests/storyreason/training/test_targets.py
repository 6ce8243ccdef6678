"""What a model learns from an example: on request only the first frames, and no entity that the story never mentions."""

from dataclasses import replace

import pytest

from storyreason import dataset
from storyreason.format import answer, grids, rules
from storyreason.format.answer import Answer
from storyreason.training import TrainingConfig, targets


def read(example: dataset.Example) -> Answer:
    return answer.read(answer.join(example.chain_of_thought, example.story))


def test_backgrounds_that_the_story_never_mentions_are_dropped(tiny_examples: list[dataset.Example]) -> None:
    example = next(one for one in tiny_examples if "| bg1 |" in one.chain_of_thought and "bg1>" in one.story)
    thought = example.chain_of_thought
    assert targets.without_unmentioned(read(example), {"bg"}) == thought
    silent = replace(example, story=example.story.replace("bg1>", "lm9>"))
    without = targets.without_unmentioned(read(silent), {"bg"})
    kept = [line for line in thought.splitlines() if not line.startswith("| bg1 |")]
    assert "bg1" not in without
    assert [line for line in without.splitlines() if "char" in line] == [line for line in kept if "char" in line]


@pytest.mark.parametrize("kind", ["char", "obj"])
def test_people_and_things_are_dropped_on_request(tiny_examples: list[dataset.Example], kind: str) -> None:
    example = next(one for one in tiny_examples if f"| {kind}1 |" in one.chain_of_thought)
    silent = replace(example, story=example.story.replace(f"{kind}1", f"{kind}77"))
    wanted = {"char": "drop_unmentioned_characters", "obj": "drop_unmentioned_objects"}[kind]
    assert f"| {kind}1 |" in targets.target(read(silent), TrainingConfig(), [])
    assert f"| {kind}1 |" not in targets.target(read(silent), TrainingConfig.model_validate({wanted: True}), [])


def test_the_target_is_the_answer(tiny_examples: list[dataset.Example]) -> None:
    example = tiny_examples[0]
    told = targets.target(read(example), TrainingConfig(drop_unmentioned_backgrounds=False), [])
    assert told == answer.join(example.chain_of_thought, example.story)


def test_the_target_has_boxes_in_the_models_convention_and_data_stay_in_pixels(
    tiny_examples: list[dataset.Example],
) -> None:
    example = tiny_examples[0]
    sizes = dataset.sizes(example)
    told = targets.target(read(example), TrainingConfig(boxes="thousandths", drop_unmentioned_backgrounds=False), sizes)
    truth, learnt = read(example).analysis, answer.read(told).analysis
    assert truth and learnt
    for (width, height), section, true in zip(sizes, learnt.sections, truth.sections, strict=True):
        for row, pixels in zip(section.entities, true.entities, strict=True):
            assert row.box and pixels.box
            wanted = [round(pixels.box[side] * 1000 / (width, height)[side % 2]) for side in range(4)]
            assert max(abs(a - b) for a, b in zip(row.box, wanted, strict=True)) <= 1
    back = grids.converted(told, [((1000, 1000), size) for size in sizes])
    assert back == answer.join(example.chain_of_thought, example.story)


def test_a_cut_story_has_its_first_images_in_analysis_phases_and_text(tiny_examples: list[dataset.Example]) -> None:
    example = tiny_examples[0]
    assert len(example.images) > 2
    whole = read(example)
    short = targets.cut(whole, 2)
    assert short.analysis and short.story and whole.analysis and whole.story
    assert short.analysis.sections == whole.analysis.sections[:2]
    assert {image for phase in short.analysis.phases for image in phase.images} == {1, 2}
    assert short.story.passages == whole.story.passages[:2]
    # Its text parses to the same
    again = answer.read(short.text)
    assert (again.analysis, again.story, again.problems) == (short.analysis, short.story, ())
    assert (again.chain_of_thought, again.story_text) == (short.chain_of_thought, short.story_text)
    # The rest keeps the rules, except for the phases of later images
    broken = {one.rule for one in rules.check(again, None)}
    assert broken <= {"phase-missing"}, broken
    assert targets.cut(whole, len(example.images)) is whole
    assert targets.cut(whole, None) is whole
