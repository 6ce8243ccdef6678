"""Scores: validity, grounding, identity, references and language of a model's answers; the comparison of two models.

>>> card = score(references, {"film-1": "<think>…</think>…"})
>>> card.metrics()["strict/grounding/f1"]
0.61
>>> compare(card, other)["strict/grounding/f1"].real
True
>>> decide(card, other, GateConfig()).reason
'strict/grounding/f1: +0.225 (0.500 to 0.725; 95% interval +0.212 to +0.240), wanted an interval above +0.000; …'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storyreason.scoring.counting import Reference, score
    from storyreason.scoring.gate import Decision, decide
    from storyreason.scoring.scorecard import HEADLINES, Difference, Scorecard, compare

__all__ = ["HEADLINES", "Decision", "Difference", "Reference", "Scorecard", "compare", "decide", "score"]

_ROOMS = {
    "Reference": "counting", "score": "counting",
    "Decision": "gate", "decide": "gate",
    "HEADLINES": "scorecard", "Difference": "scorecard", "Scorecard": "scorecard", "compare": "scorecard",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Numpy and the readers come with the first name that is used: `storyreason --help` needs none of them."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
