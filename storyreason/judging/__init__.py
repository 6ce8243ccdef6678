"""A language model as a judge of stories, and how far its judgement can be trusted.

Every story is compared with the data's own, in both orders, twice each, by a model behind any OpenAI-compatible endpoint.
What a judge says is worth as much as its agreement: with itself when the two stories change places, with itself when it is
asked again, with the number of faults that were planted in right stories, and with people's ratings.
"""

from storyreason.judging.agreement import Report, report
from storyreason.judging.asking import Candidate, Judgement, judge
from storyreason.judging.faults import COUNTS, FAULTS, plant

__all__ = ["COUNTS", "FAULTS", "Candidate", "Judgement", "Report", "judge", "plant", "report"]
