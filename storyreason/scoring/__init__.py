"""Scoring a model's answers (validity, grounding, identity, references, language), comparing two models, and rewarding an
answer.

>>> from storyreason import dataset, scoring
>>> from storyreason.format import answer
>>> stories = dataset.load("data", "test")
>>> references = [scoring.Reference.of(story) for story in stories]
>>> told = {story.story_id: answer.join(story.chain_of_thought, story.story) for story in stories}
>>> card, silent = scoring.score(references, told), scoring.score(references, {})
>>> card.metrics()["strict/grounding/f1"]
1.0
>>> scoring.compare(card, silent)["strict/grounding/f1"].real
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storyreason.scoring.counting import Protocol, Reference, score
    from storyreason.scoring.gate import Decision, decide
    from storyreason.scoring.rewarding import Reward, reward, rewards
    from storyreason.scoring.scorecard import Difference, Scorecard, compare

__all__ = [
    "Decision", "Difference", "Protocol", "Reference", "Reward", "Scorecard", "compare", "decide", "reward", "rewards", "score",
]  # fmt: skip

_ROOMS = {
    "Protocol": "counting", "Reference": "counting", "score": "counting",
    "Decision": "gate", "decide": "gate",
    "Reward": "rewarding", "reward": "rewarding", "rewards": "rewarding",
    "Difference": "scorecard", "Scorecard": "scorecard", "compare": "scorecard",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the module of a name when the name is first used: `storyreason --help` needs neither numpy nor the parsers."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
