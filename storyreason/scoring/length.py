"""Length and variety of a story's text, without tags."""

import re
from itertools import pairwise

from storyreason.format.story import Mention, Story

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def plain(story: Story) -> str:
    """A story's text without tags, a line per passage."""
    return "\n".join(
        "".join(part.text if isinstance(part, Mention) else part for part in passage.parts).strip()
        for passage in story.passages
    )


def words(story: Story) -> list[str]:
    """The words of a story, in lower case."""
    return _WORD.findall(plain(story).lower())


def count(reference: Story, predicted: Story) -> dict[str, float]:
    """One story's counts: words of answer and reference, and the answer's n-grams, total and distinct (distinct-n, Li et
    al. 2016)."""
    told = words(predicted)
    return {
        "length/reference_words": len(words(reference)),
        "length/words": len(told),
        "length/distinct_1": len(set(told)),
        "length/bigrams": max(0, len(told) - 1),
        "length/distinct_2": len(set(pairwise(told))),
    }
