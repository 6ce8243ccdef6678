"""The format of an answer: analysis and story, as text and as objects, and the rules that say what is valid.

>>> from storyreason import format
>>> answer = format.read("<think>\\n## Image 1\\n</think>\\n<gdi image1>\\nShe waited.\\n</gdi>")
>>> answer.story.passages[0].parts
('She waited.',)
>>> [problem.rule for problem in format.check(answer, sizes=[(196, 112)])]
['setting-missing', 'phase-missing', 'pronoun-untagged']

`Reader` reads the same while it is being written. Parts alone are read by the modules `analysis` and `story`.
"""

from storyreason.format.analysis import Analysis, Section
from storyreason.format.answer import Answer, Found, Reader, join, read, render
from storyreason.format.boxes import Box
from storyreason.format.kinds import KINDS, Kind, kind_of
from storyreason.format.problems import Problem
from storyreason.format.rules import RULES, Rule, check, is_valid
from storyreason.format.story import Mention, Passage, Story
from storyreason.format.tables import PHASES, SETTING_ELEMENTS, Character, Object, Phase, Setting

__all__ = [
    "KINDS", "PHASES", "RULES", "SETTING_ELEMENTS", "Analysis", "Answer", "Box", "Character", "Found", "Kind", "Mention",
    "Object", "Passage", "Phase", "Problem", "Reader", "Rule", "Section", "Setting", "Story", "check", "is_valid", "join",
    "kind_of", "read", "render",
]  # fmt: skip
