"""The sample world: small invented films, drawn and told so that every box, identity and mention is known to be correct.

>>> from storyreason import sample
>>> next(sample.examples("test", seed=7)).story_id
'black-bicycle-481-1'
"""

import re
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


def is_sample(story_id: str) -> bool:
    """Whether a story has a name as this world's films have: a colour, a thing and a number.

    >>> is_sample("black-bicycle-481-1"), is_sample("harbour-1")
    (True, False)
    """
    from storyreason.sample.world import things

    found = re.fullmatch(r"(\w+)-(\w+)-[0-9]{3,}-[0-9]+", story_id)
    return found is not None and found.groups() in {(thing.colour, thing.shape) for thing in things()}
