"""The sample world: small invented films, drawn and told so that every box, identity and mention is known to be correct.

>>> from storyreason import sample
>>> next(sample.examples("test", seed=7)).story_id
'black-bicycle-481-1'
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storyreason import dataset
    from storyreason.sample.world import Part

SEED = 7


def examples(part: "Part", seed: int = SEED, films: int | None = None) -> "Iterator[dataset.Example]":
    """The examples of a split, two per film; the same seed gives the same bytes. `films` makes fewer or more."""
    from storyreason import dataset
    from storyreason.format import analysis, story
    from storyreason.sample.drawing import draw, encode
    from storyreason.sample.plot import tales
    from storyreason.sample.telling import tell

    for tale in tales(part, seed, films):
        told_analysis, told_story = tell(tale)
        yield dataset.Example(
            story_id=tale.story_id,
            images=tuple(encode(draw(shot.frame)) for shot in tale.shots),
            chain_of_thought=analysis.render(told_analysis),
            story=story.render(told_story),
        )
