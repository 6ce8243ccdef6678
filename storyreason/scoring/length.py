"""Length and variety of the stories, tags removed."""

import re
from itertools import pairwise

from storyreason.format.story import Mention, Story

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def plain(story: Story) -> str:
    """A story's text without its tags, passages a line apart."""
    return "\n".join(
        "".join(part.text if isinstance(part, Mention) else part for part in passage.parts).strip()
        for passage in story.passages
    )


def count(told: Story, claimed: Story) -> dict[str, float]:
    """One story's sums: words on both sides, and how many n-grams of the answer there are and are different (Li et al.
    2016, distinct-n), counted within the story."""
    words = _WORD.findall(plain(claimed).lower())
    return {
        "length/reference_words": len(_WORD.findall(plain(told))),
        "length/words": len(words),
        "length/distinct_1": len(set(words)),
        "length/bigrams": max(0, len(words) - 1),
        "length/distinct_2": len(set(pairwise(words))),
    }
