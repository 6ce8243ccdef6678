"""What is learnt from an example: the first frames alone on request, and nothing that the story never mentions."""

from dataclasses import replace

import pytest

from storyreason import dataset
from storyreason.format import analysis, answer, rules, story
from storyreason.training import TrainingConfig, targets


def test_backgrounds_that_the_story_never_mentions_are_dropped(tiny_examples: list[dataset.Example]) -> None:
    example = next(one for one in tiny_examples if "| bg1 |" in one.chain_of_thought and "bg1>" in one.story)
    thought = example.chain_of_thought
    assert targets.without_unmentioned(thought, example.story, {"bg"}) == thought
    silent = example.story.replace("bg1>", "lm9>")
    without = targets.without_unmentioned(thought, silent, {"bg"})
    kept = [line for line in thought.splitlines() if not line.startswith("| bg1 |")]
    assert "bg1" not in without
    assert [line for line in without.splitlines() if "char" in line] == [line for line in kept if "char" in line]


@pytest.mark.parametrize("kind", ["char", "obj"])
def test_people_and_things_are_dropped_on_request(tiny_examples: list[dataset.Example], kind: str) -> None:
    example = next(one for one in tiny_examples if f"| {kind}1 |" in one.chain_of_thought)
    silent = replace(example, story=example.story.replace(f"{kind}1", f"{kind}77"))
    wanted = {"char": "drop_unmentioned_characters", "obj": "drop_unmentioned_objects"}[kind]
    assert f"| {kind}1 |" in targets.target(silent, TrainingConfig())
    assert f"| {kind}1 |" not in targets.target(silent, TrainingConfig.model_validate({wanted: True}))


def test_the_target_is_the_answer(tiny_examples: list[dataset.Example]) -> None:
    example = tiny_examples[0]
    read = answer.read(targets.target(example, TrainingConfig(drop_unmentioned_backgrounds=False)))
    assert read.story_text.strip() == example.story.strip()
    assert read.chain_of_thought.strip() == example.chain_of_thought.strip()


def test_a_cut_story_has_its_first_images_in_analysis_phases_and_text(tiny_examples: list[dataset.Example]) -> None:
    example = tiny_examples[0]
    assert len(example.images) > 2
    short = targets.cut(example, 2)
    assert short.images == example.images[:2]
    read, _ = analysis.read(short.chain_of_thought)
    whole, _ = analysis.read(example.chain_of_thought)
    assert read.sections == whole.sections[:2]
    assert {image for phase in read.phases for image in phase.images} == {1, 2}
    told, problems = story.read(short.story)
    assert (told.passages, problems) == (story.read(example.story)[0].passages[:2], [])
    # What is left keeps the rules, but for the phases that were told later
    broken = {one.rule for one in rules.check(answer.read(answer.join(short.chain_of_thought, short.story)), None)}
    assert broken <= {"phase-missing"}, broken
    assert targets.cut(example, len(example.images)) is example
    assert targets.cut(example, None) is example
