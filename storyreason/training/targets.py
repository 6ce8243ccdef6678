"""What a model learns from an answer: the part on its first images, without entities that the story never mentions."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from storyreason.format import analysis, answer, grids, story
from storyreason.format.answer import Answer
from storyreason.format.kinds import Kind, kind_of
from storyreason.format.tables import Character, Object
from storyreason.training.config import TrainingConfig


def target(read: Answer, config: TrainingConfig, sizes: Sequence[grids.Size]) -> str:
    """The text that the model learns from a parsed answer, whose images have these (width, height) in pixels."""
    dropped: dict[Kind, bool] = {
        "char": config.drop_unmentioned_characters,
        "obj": config.drop_unmentioned_objects,
        "lm": config.drop_unmentioned_objects,
        "bg": config.drop_unmentioned_backgrounds,
    }
    text = answer.join(without_unmentioned(read, {kind for kind in dropped if dropped[kind]}), read.story_text)
    if config.boxes == grids.ORIGINAL:
        return text
    return grids.converted(text, [(size, grids.grid(config.boxes, size)) for size in sizes])


def cut(read: Answer, max_images: int | None) -> Answer:
    """The part of an answer on its first images: of the analysis, the phases and the story.

    Phases that name none of them are dropped. The answer is unchanged when it has no more images than that.
    """
    thought, told = read.analysis, read.story
    if max_images is None or thought is None or told is None or len(thought.sections) <= max_images:
        return read
    phases = (
        replace(phase, images=tuple(image for image in phase.images if image <= max_images), images_text="")
        for phase in thought.phases
    )
    thought = analysis.Analysis(
        sections=tuple(section for section in thought.sections if section.image <= max_images),
        phases=tuple(phase for phase in phases if phase.images),
    )
    told = story.Story(tuple(passage for passage in told.passages if passage.image <= max_images))
    return answer.of(thought, told)


def without_unmentioned(read: Answer, kinds: Collection[Kind]) -> str:
    """The analysis without rows of these kinds that the story never mentions; unchanged if there are none."""
    if read.analysis is None or read.story is None:
        return read.chain_of_thought
    mentioned = {
        entity
        for passage in read.story.passages
        for part in passage.parts
        if not isinstance(part, str)
        for entity in part.ids
    }

    def kept(row: Character | Object) -> bool:
        return row.id in mentioned or kind_of(row.id) not in kinds

    if all(kept(row) for section in read.analysis.sections for row in section.entities):
        return read.chain_of_thought
    sections = (
        replace(
            section, characters=tuple(filter(kept, section.characters)), objects=tuple(filter(kept, section.objects))
        )
        for section in read.analysis.sections
    )
    return analysis.render(replace(read.analysis, sections=tuple(sections)))
