"""Scores: validity, grounding, identity, references and language of a model's answers; the comparison of two models.

>>> card = score(references, {"film-1": "<think>…</think>…"})
>>> card.metrics()["strict/grounding/f1"]
0.61
>>> compare(card, other)["strict/grounding/f1"].real
True
"""

from storyreason.scoring.counting import Reference, score
from storyreason.scoring.gate import Decision, decide
from storyreason.scoring.scorecard import Difference, Scorecard, compare

__all__ = ["Decision", "Difference", "Reference", "Scorecard", "compare", "decide", "score"]
