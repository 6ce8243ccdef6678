"""Grounded decoding: an analysis under a grammar, then a story under a second grammar made from that analysis.

The story can therefore mention only what is in the analysis's tables, and only in the images that list it. The answer
follows the published format (StoryReasoning, arXiv 2505.10292; rules in docs/reference/rules.md), whatever the model and
the temperature.

The second request continues the first one's text, so that an engine with a prefix cache does not process the pictures
again. A grammar cannot express that a box's first corner lies above and left of the second: such boxes are repaired
afterwards, and counted.

Tokens are budgeted so that an answer always ends in a valid way. Before it starts, the tokens of a minimal
analysis and a minimal story are counted and reserved. A stage that reaches its share is cut back to its
last complete row or tag, then ended under a grammar that allows only a short ending. If even that does not fit, because a
poor model writes it letter by letter, it is written again with all that the engine's context leaves.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from storyreason import pictures
from storyreason.errors import EngineError
from storyreason.format import analysis, answer, grids, story
from storyreason.format.analysis import Analysis, Section
from storyreason.format.boxes import Box
from storyreason.format.rules import Sizes
from storyreason.format.story import Passage, Story
from storyreason.format.tables import NARRATIVE, PHASES, SETTING_ELEMENTS, SETTINGS, Character, Object
from storyreason.generation import grammar
from storyreason.generation.config import GenerationConfig
from storyreason.generation.engine import Engine, Session
from storyreason.generation.openai import Chunk, OnChunk, Stop

SAFETY = 2
"""Tokens reserved for an ending, as a multiple of its tokens: a poor model may write a word in pieces."""


@dataclass(frozen=True, slots=True)
class Grounded:
    """An answer in the published format, valid unless `cut`. All counts but `mended` are in tokens.

    `mended` is the number of boxes that were repaired, `unmended` the answer before that. `ended`: the analysis or the
    story reached its share of the tokens and was ended early. `cut`: even the ending ran out of the engine's context.
    """

    text: str
    unmended: str
    mended: int
    ended: bool
    cut: bool
    prompt_tokens: int
    tokens: int


def tell(
    engine: Engine,
    images: Sequence[bytes],
    config: GenerationConfig,
    *,
    on_chunk: OnChunk | None = None,
    stop: Stop | None = None,
) -> Grounded:
    """Generate one grounded answer about `images`, encoded pictures in order, with an engine that supports grammars.

    With `on_chunk` the answer is streamed. Chunks take characters back where a stage was cut in the middle of a row or
    a mention and where boxes were repaired; all of them applied in order give the returned text. `stop` cancels. Boxes
    are in the model's convention, `config.boxes`: the second request continues what the model wrote.

    Raises EngineAwayError if the same request may succeed later, and EngineError if not: an endpoint without grammars, or
    a limit on tokens (`config.max_tokens`, the engine's context) that is too small for this number of images.
    """
    sizes = [grids.grid(config.boxes, pictures.size(image)) for image in images]
    run = _GroundedAnswer(engine.session(images, config), engine.count, config.max_tokens, on_chunk, stop or Stop())
    read = run.analysis(sizes)
    mended, count = _mend(read, sizes)
    thought = analysis.render(mended)
    run.show(answer.join(thought, ""))
    told = run.story(mended, answer.join(thought, ""))
    run.show(answer.join(thought, told))
    return Grounded(
        answer.join(thought, told),
        answer.join(analysis.render(read), told) if count else answer.join(thought, told),
        count,
        run.ended,
        run.cut,
        run.prompt_tokens,
        run.tokens,
    )


@dataclass
class _GroundedAnswer:
    """An answer in progress: sends its requests and keeps count of tokens."""

    session: Session
    count: Callable[[str], int]
    max_tokens: int | None
    on_chunk: OnChunk | None
    stop: Stop
    prompt_tokens: int = 0
    tokens: int = 0
    ended: bool = False
    cut: bool = False
    _left: int = field(default=0, init=False)  # tokens that the current stage may still use
    _by_context: bool = field(default=False, init=False)  # what limits it is the engine's context, not `max_tokens`
    _shown: str = field(default="", init=False)  # all chunks so far, applied
    _going_on_from: str = field(default="", init=False)

    def show(self, text: str) -> None:
        """Send the chunk that turns what was shown so far into `text`."""
        if self.on_chunk is None or text == self._shown:
            return
        same = _common_prefix(self._shown, text)
        back, self._shown = len(self._shown) - same, text
        self.on_chunk(Chunk(text[same:], back, self.tokens))

    def analysis(self, sizes: Sizes) -> Analysis:
        """Generate the analysis; `sizes` are the images' (width, height) in pixels.

        Sets the budget, so it comes before `story`. Raises EngineError if the budget is too small for any answer.
        """
        least_analysis, least_story = (SAFETY * self.count(text) for text in _endings(sizes))
        self._left = self._budget() - least_story
        most = self._left - least_analysis
        if most < least_analysis // SAFETY:
            needed = least_analysis + least_analysis // SAFETY + least_story
            raise EngineError(
                f"A grounded answer about {len(sizes)} images needs {needed} tokens or more, "
                f"but the limit is {self._left + least_story}: {self._remedy()}."
            )
        begin, text, whole = f"{answer.OPEN}\n", "", True
        for number in range(len(sizes)):
            written, _ = analysis.read(text)
            most = self._left - least_analysis
            if whole := whole and most > 0:
                rules = grammar.of_section(sizes, written.sections[:number])
                more, whole = self._go_on(begin + text, rules, most)
                text += more
        if not whole:
            self.ended = True
            written, _ = analysis.read(text.rpartition("\n")[0])
            text = analysis.render(written)
            if rest := grammar.end_of_analysis(sizes, written):
                text += self._ending(begin + text, rest, least_story)
        self._left = max(0, self._left) + least_story
        return analysis.read(text)[0]

    def story(self, of: Analysis, begin: str) -> str:
        """Generate the story about an analysis; `begin` is the answer up to it, which the engine continues."""
        least = SAFETY * self.count(_story_ending(len(of.sections)))
        text, whole = self._go_on(begin, grammar.of_story(of), max(1, self._left - least))
        if not whole:
            self.ended = True
            text = _without_open_tag(text)
            if rest := grammar.end_of_story(of, text):
                text += self._ending(begin + text, rest)
        return text

    def _ending(self, written: str, rules: str, reserved: int = 0) -> str:
        """What ends a stage; `reserved` are the tokens of the context that the next one needs."""
        most = max(1, self._left)
        text, whole = self._go_on(written, rules, most)
        if not whole:
            room = (self.session.room(self.stop) or 0) - self.count(written) - reserved
            if room > most:
                text, whole = self._go_on(written, rules, room)
        self.cut = self.cut or not whole
        return text

    def _go_on(self, written: str, rules: str, most: int) -> tuple[str, bool]:
        """The continuation of `written` under a grammar (GBNF), and whether it was complete within `most` tokens."""
        told = self.session.tell(
            written=written,
            grammar=rules,
            max_tokens=most,
            on_chunk=None if self.on_chunk is None else functools.partial(self._forward, written),
            stop=self.stop,
        )
        self.prompt_tokens = self.prompt_tokens or told.prompt_tokens
        self.tokens += told.tokens
        self._left -= told.tokens
        return told.text, not told.cut

    def _forward(self, written: str, chunk: Chunk) -> None:
        assert self.on_chunk is not None
        if self._going_on_from is not written:  # show nothing before the engine answers
            self.show(written)
            self._going_on_from = written
        self._shown += chunk.text
        self.on_chunk(chunk._replace(tokens=self.tokens + chunk.tokens))

    def _budget(self) -> int:
        """Tokens for the whole answer: as configured, but no more than the prompt leaves of the context. Raises EngineError."""
        room = self.session.room(self.stop)
        found = [limit for limit in (self.max_tokens, room) if limit is not None]
        if not found:
            raise EngineError(
                "The engine does not say how long its answers may be: set generation.max_tokens, or --max-tokens of tell."
            )
        self._by_context = self.max_tokens is None or min(found) < self.max_tokens
        return min(found)

    def _remedy(self) -> str:
        if self._by_context:
            return "raise serving.max_model_len, or show fewer images"
        return "raise generation.max_tokens, or --max-tokens of tell"


def _common_prefix(one: str, other: str) -> int:
    """Length of the common prefix of two texts, in characters."""
    if other.startswith(one):
        return len(one)
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(other))


def _endings(sizes: Sizes) -> tuple[str, str]:
    """The longest analysis and story that the grammars of endings allow, to count their tokens."""
    few = "abc " * (grammar.FEW // 4)
    images = ", ".join(str(number) for number in range(1, len(sizes) + 1))
    setting = SETTINGS.build([max(SETTING_ELEMENTS, key=len), *[few] * (len(SETTINGS.columns) - 1)], 0)
    phases = tuple(NARRATIVE.build([name, *[few] * (len(NARRATIVE.columns) - 2), images], 0) for name in PHASES)
    sections = tuple(Section(number, settings=(setting,)) for number in range(1, len(sizes) + 1))
    return analysis.render(Analysis(sections, phases)), _story_ending(len(sizes))


def _story_ending(images: int) -> str:
    return story.render(Story(tuple(Passage(image, ("abc " * (grammar.FEW // 2),)) for image in range(1, images + 1))))


_Row = TypeVar("_Row", Character, Object)


def _mend(read: Analysis, sizes: Sizes) -> tuple[Analysis, int]:
    """Order the corners of boxes and give each an area; also returns how many boxes changed."""
    sections = tuple(
        replace(one, characters=_mended(one.characters, size), objects=_mended(one.objects, size))
        for one, size in zip(read.sections, sizes, strict=False)
    )
    sections += read.sections[len(sizes) :]  # an engine that ignores grammars may write about more images
    pairs = zip(read.sections, sections, strict=True)
    count = sum(a.box != b.box for was, now in pairs for a, b in zip(was.entities, now.entities, strict=True))
    return replace(read, sections=sections), count


def _mended(rows: tuple[_Row, ...], size: tuple[int, int]) -> tuple[_Row, ...]:
    return tuple(replace(row, box=row.box and _corners_in_order(row.box, size)) for row in rows)


def _corners_in_order(box: Box, size: tuple[int, int]) -> Box:
    """Corners in order, at least one pixel apart, within `size`: `10,5,3,5` becomes `3,5,10,6`."""
    (x1, x2), (y1, y2) = sorted((box.x1, box.x2)), sorted((box.y1, box.y2))
    x1, x2 = (x1, x2) if x1 < x2 else (min(x1, size[0] - 1), min(x1, size[0] - 1) + 1)
    y1, y2 = (y1, y2) if y1 < y2 else (min(y1, size[1] - 1), min(y1, size[1] - 1) + 1)
    return Box(x1, y1, x2, y2)


_OPENING = re.compile(r"<gd[oal] ")


def _without_open_tag(text: str) -> str:
    """A story that was cut, without an incomplete tag or mention at its end."""
    last = text.rfind("<")
    if last >= 0 and ">" not in text[last:]:
        text = text[:last]
        last = text.rfind("<")
    if last >= 0 and _OPENING.match(text, last):
        text = text[:last]
    text = text.rstrip("\n")
    return text + "\n" if re.search(r"<gdi image[0-9]+>\Z", text) else text
