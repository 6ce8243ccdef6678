"""The stories of one film: each window's analysis and story, asked for until they keep every rule, or left out."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from storyreason import dataset
from storyreason.authoring import grammar, prompting
from storyreason.authoring.calls import Author, Reply
from storyreason.authoring.config import AuthoringConfig
from storyreason.authoring.given import Given, read_story
from storyreason.authoring.prompting import Message
from storyreason.authoring.windows import Window
from storyreason.format import analysis, answer
from storyreason.format.analysis import Analysis
from storyreason.format.plain import plain
from storyreason.format.problems import Problem
from storyreason.generation.grammar import of_story

Part = str
"""What is asked for: `analysis` or `story`."""
ANALYSIS, STORY = "analysis", "story"
Told = TypeVar("Told")


class LeftOut(NamedTuple):
    """A window without a story, and why: the part that failed, and what was wrong with its last attempt."""

    story_id: str
    part: Part
    rule: str
    message: str


@dataclass(frozen=True)
class Written:
    """What was written for a film."""

    examples: tuple[dataset.Example, ...]
    left_out: tuple[LeftOut, ...]
    names: dict[str, str]
    """What its people are called, by ID."""


class _Draft(NamedTuple):
    """A window whose analysis is written."""

    window: Window
    given: Given
    asked: list[Message]
    told: Analysis

    @property
    def thought(self) -> str:
        return analysis.render(self.told)


def write(
    author: Author, config: AuthoringConfig, windows: Sequence[Window], say: Callable[[str], object] = lambda _: None
) -> Written:
    """The stories of a film's windows.

    Analyses are asked for one after the other, because people keep the names that they were given first; then stories,
    several at a time. What is not right after `config.attempts` is left out. Raises as `Author.ask` does.
    """
    names: dict[str, str] = {}
    drafts: list[_Draft] = []
    left_out: list[LeftOut] = []
    for window in windows:
        draft = _draft(author, config, Given(window, dict(names)))
        if isinstance(draft, LeftOut):
            left_out.append(draft)
        else:
            drafts.append(draft)
            names.update((row.id, row.name) for section in draft.told.sections for row in section.characters)
        say(f"{window.story_id}: {'no ' * isinstance(draft, LeftOut)}analysis")
    with ThreadPoolExecutor(config.concurrency) as pool:
        found = list(pool.map(lambda draft: _tell(author, config, draft), drafts))
    examples = [one for one in found if isinstance(one, dataset.Example)]
    left_out += [one for one in found if isinstance(one, LeftOut)]
    order = {window.story_id: window.number for window in windows}
    return Written(tuple(examples), tuple(sorted(left_out, key=lambda one: order[one.story_id])), names)


def _draft(author: Author, config: AuthoringConfig, given: Given) -> _Draft | LeftOut:
    images = [shot.frame.image for shot in given.window.shots]
    asked = prompting.for_analysis(config, given, images)
    rules = grammar.of_analysis(given, config.cell) if config.grammars else None
    told = _ask(author, config, asked, rules, given.read)
    if isinstance(told, Problem):
        return LeftOut(given.window.story_id, ANALYSIS, told.rule, told.message)
    return _Draft(given.window, given, asked, told)


def _tell(author: Author, config: AuthoringConfig, draft: _Draft) -> dataset.Example | LeftOut:
    images = [shot.frame.image for shot in draft.window.shots]
    asked = prompting.for_story(config, draft.asked, images, draft.thought, draft.told)
    rules = of_story(draft.told) if config.grammars else None

    def read(text: str) -> tuple[str, list[Problem]]:
        return text, read_story(text, draft.thought, draft.told, draft.given.sizes)

    text = _ask(author, config, asked, rules, read)
    if isinstance(text, Problem):
        return LeftOut(draft.window.story_id, STORY, text.rule, text.message)
    return dataset.Example(draft.window.story_id, tuple(images), draft.thought, text)


def _ask(
    author: Author,
    config: AuthoringConfig,
    asked: list[Message],
    rules: str | None,
    read: Callable[[str], tuple[Told, list[Problem]]],
) -> Told | Problem:
    """What a reply says that is right, or the first fault of the last one.

    After each attempt the model is told what was wrong; a trained storyteller, which knows no such turn, is only asked again.
    """
    messages, faults = asked, [Problem("none", "")]
    for attempt in range(config.attempts):
        reply = author.ask(messages, rules, attempt)
        told, faults = read(body(reply.text))
        faults = _of_reply(reply) + faults
        if not faults:
            return told
        if reply.rejected:  # the same again would be rejected again
            break
        if config.asking == "instructed" and not reply.refused:
            messages = prompting.again(asked, reply.text, faults)
    return faults[0]


def _of_reply(reply: Reply) -> list[Problem]:
    """What is wrong with a reply whatever its text."""
    if reply.refused:
        return [Problem("refused", reply.refused)]
    return [Problem("answer-truncated", "The reply was cut off at the token limit: be shorter.")] if reply.cut else []


def body(text: str) -> str:
    """A reply without what models put around it: a code fence, `<think>` tags, empty lines.

    >>> body("```markdown\\n## Image 1\\n```")
    '## Image 1'
    """
    text = plain(text).strip()
    if text.startswith("```") and text.endswith("```"):
        text = text.partition("\n")[2].removesuffix("```").strip()
    return text.removeprefix(answer.OPEN).removesuffix(answer.CLOSE).strip()
