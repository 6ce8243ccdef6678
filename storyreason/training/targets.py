"""What a model is to learn from an example: its first frames, its answer, without what the story never mentions."""

from collections.abc import Collection
from dataclasses import replace

from storyreason.dataset import Example
from storyreason.format import analysis, answer, story
from storyreason.training.config import TrainingConfig


def target(example: Example, config: TrainingConfig) -> str:
    """The answer that the model is to learn for an example."""
    wanted = {
        "char": config.drop_unmentioned_characters,
        "obj": config.drop_unmentioned_objects,
        "lm": config.drop_unmentioned_objects,
        "bg": config.drop_unmentioned_backgrounds,
    }
    kinds = {kind for kind, dropped in wanted.items() if dropped}
    return answer.join(without_unmentioned(example.chain_of_thought, example.story, kinds), example.story)


def cut(example: Example, max_images: int | None) -> Example:
    """The example of its first images: their part of the analysis, of the phases and of the story.

    Phases that name none of them are gone; untouched when there are no more images than that.
    """
    if max_images is None or len(example.images) <= max_images:
        return example
    read, _ = analysis.read(example.chain_of_thought)
    told, _ = story.read(example.story)
    phases = (
        replace(phase, images=tuple(image for image in phase.images if image <= max_images), images_text="")
        for phase in read.phases
    )
    thought = analysis.Analysis(
        sections=tuple(section for section in read.sections if section.image <= max_images),
        phases=tuple(phase for phase in phases if phase.images),
    )
    kept = story.Story(tuple(passage for passage in told.passages if passage.image <= max_images))
    return replace(
        example,
        images=example.images[:max_images],
        chain_of_thought=analysis.render(thought),
        story=story.render(kept),
        frame_count=None if example.frame_count is None else max_images,
    )


def without_unmentioned(chain_of_thought: str, story_text: str, kinds: Collection[str]) -> str:
    """The analysis without rows of these kinds (`char`, `obj`, `lm`, `bg`) that the story never mentions.

    Untouched when there are none.
    """
    told, _ = story.read(story_text)
    mentioned = {
        entity
        for passage in told.passages
        for part in passage.parts
        if not isinstance(part, str)
        for entity in part.ids
    }
    read, _ = analysis.read(chain_of_thought)

    def kept(row: analysis.Character | analysis.Object) -> bool:
        return row.id in mentioned or row.id.rstrip("0123456789") not in kinds

    if all(kept(row) for section in read.sections for row in section.entities):
        return chain_of_thought
    sections = (
        replace(
            section, characters=tuple(filter(kept, section.characters)), objects=tuple(filter(kept, section.objects))
        )
        for section in read.sections
    )
    return analysis.render(replace(read, sections=tuple(sections)))
