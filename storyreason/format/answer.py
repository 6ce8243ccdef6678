"""A model's answer: the analysis between `<think>` and `</think>`, then the story. Parsed whole or as a stream."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from storyreason.format.analysis import Analysis, AnalysisParser, Section
from storyreason.format.analysis import render as render_analysis
from storyreason.format.problems import Problem
from storyreason.format.story import Mention, Passage, Story, StoryParser, placed
from storyreason.format.story import render as render_story
from storyreason.format.tables import Phase, Row

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer, as far as it could be parsed.

    `analysis` is None without `<think>`; `story` is None without `<think>` or `</think>`. Lines and columns of problems
    and rows refer to `text`. Offsets of mentions and passages refer to `story_text`, which is the end of `text`. Without
    `<think>`, the whole answer is `story_text`.
    """

    analysis: Analysis | None
    story: Story | None
    problems: tuple[Problem, ...]
    chain_of_thought: str
    story_text: str
    text: str

    @property
    def readable(self) -> bool:
        """Whether there is a `<think>` and at least one image section. An unreadable answer is scored as empty."""
        return self.analysis is not None and bool(self.analysis.sections)


def join(chain_of_thought: str, story_text: str) -> str:
    """The text of an example's answer, as models are trained to write it."""
    return f"{OPEN}\n{chain_of_thought}\n{CLOSE}\n{story_text}"


def render(analysis: Analysis, story: Story) -> str:
    """The answer in the published format. Inverse of `read`."""
    return of(analysis, story).text


def of(analysis: Analysis, story: Story) -> Answer:
    """The `Answer` for what `render` writes, without parsing it. Lines and offsets are those of the arguments."""
    chain_of_thought, story_text = render_analysis(analysis), render_story(story)
    return Answer(analysis, story, (), chain_of_thought, story_text, join(chain_of_thought, story_text))


def read(text: str) -> Answer:
    """Parses as much of an answer as possible; the rest becomes problems with their positions.

    Never raises. Takes time linear in the length of the text.

    >>> read("<think>\\n## Image 1\\n").problems[0].rule
    'answer-truncated'
    """
    reader = Reader()
    reader._advance(text)
    return reader.close()


What = Section | Row | Passage | Mention | str


class Found(NamedTuple):
    """What a stream has completed: a row, a mention, plain text, or the (empty) section or passage that now begins."""

    image: int | None
    what: What


class Reader:
    """Parses an answer while it is being generated. All chunks together take time linear in the length of the text.

    >>> reader = Reader()
    >>> reader.feed("<think>\\n## Image 1\\n## Im")
    [Found(image=1, what=Section(image=1, characters=(), objects=(), settings=(), line=2))]
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []  # all that was fed
        self._tail = ""  # the last characters fed, where a marker may have begun
        self._line: list[str] = []  # the unfinished line of the analysis
        self._analysis: AnalysisParser | None = None
        self._story: StoryParser | None = None
        self._started = False  # whether the first character of the story has arrived
        self._image: int | None = None
        self._problems: list[Problem] = []

    def feed(self, text: str) -> list[Found]:
        """Parses the next chunk. Returns what it completed, in the order of the text."""
        return [self._found(what) for what in self._advance(text)]

    def close(self) -> Answer:
        """Ends the text. A truncated answer keeps its complete rows."""
        if self._analysis and not self._story:
            self._analysis.last_line("".join(self._line))
        if self._story:
            self._story.close()
        answer = self.answer()
        problem = _unreadable(answer) or _truncated(answer)
        return replace(answer, problems=(problem, *answer.problems)) if problem else answer

    def answer(self) -> Answer:
        """Everything that is complete so far. The text may continue, so a missing end is not reported as a problem."""
        text = "".join(self._pieces)
        if not self._analysis:
            return Answer(None, None, (), "", text, text)
        analysis, problems = self._analysis.analysis(), [*self._problems, *self._analysis.problems]
        start = text.index(OPEN) + len(OPEN)
        if not self._story:
            return Answer(analysis, None, tuple(problems), text[start:].removeprefix("\n"), "", text)
        end = text.index(CLOSE, start)
        story_text = text[end + len(CLOSE) :].removeprefix("\n")
        problems += placed(self._story.findings, text, len(text) - len(story_text))
        thought = text[start:end].removeprefix("\n").removesuffix("\n")
        return Answer(analysis, self._story.story(), tuple(problems), thought, story_text, text)

    def _found(self, what: What) -> Found:
        if isinstance(what, (Section, Passage)):
            self._image = what.image
        return Found(None if isinstance(what, Phase) else self._image, what)

    def _advance(self, text: str) -> list[What]:
        self._pieces.append(text)
        if self._story:
            return self._read_story(text)
        if self._analysis:
            return self._read_analysis(text)
        seen, self._tail = self._tail + text, (self._tail + text)[-len(OPEN) + 1 :]
        return self._begin() if OPEN in seen else []

    def _begin(self) -> list[What]:
        before, _, after = "".join(self._pieces).partition(OPEN)
        lines = before.split("\n")
        if before.strip():
            place = next(number for number, line in enumerate(lines, 1) if line.strip())
            self._problems.append(Problem("text-outside-image", "There is text before <think>.", place, 1))
        self._analysis = AnalysisParser(first_line=len(lines))
        # In "<think>## Image 1" the column of the heading still counts from the start of the line.
        self._line = [" " * (len(lines[-1]) + len(OPEN))]
        self._tail = ""
        return self._read_analysis(after)

    def _read_analysis(self, text: str) -> list[What]:
        assert self._analysis
        seen, self._tail = self._tail + text, (self._tail + text)[-len(CLOSE) + 1 :]
        self._line.append(text)
        closes = CLOSE in seen
        if not closes and "\n" not in text:
            return []
        whole, _, after = "".join(self._line).partition(CLOSE)
        lines = whole.split("\n")
        self._line = [] if closes else [lines.pop()]
        new: list[What] = [what for line in lines if (what := self._analysis.line(line)) is not None]
        if closes:
            self._story = StoryParser()
            new += self._read_story(after)
        return new

    def _read_story(self, text: str) -> list[Any]:
        assert self._story
        if text and not self._started:
            text, self._started = text.removeprefix("\n"), True
        return self._story.feed(text)


def _unreadable(answer: Answer) -> Problem | None:
    if answer.readable:
        return None
    missing = OPEN if answer.analysis is None else "heading such as '## Image 1'"
    return Problem("answer-unreadable", f"The answer has no {missing} and counts as empty.", 1, 1)


def _truncated(answer: Answer) -> Problem | None:
    if answer.story is not None:
        return None
    lines = answer.text.split("\n")
    return Problem("answer-truncated", f"The answer ends here, without {CLOSE}.", len(lines), len(lines[-1]) + 1)
