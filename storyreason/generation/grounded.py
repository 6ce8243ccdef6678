"""Tell a story that cannot break its own grounding: an analysis under a grammar, then a story under one made from it.

The story's request goes on where the analysis ended, from the same tokens, so that an engine with a prefix cache keeps
the pictures' work. What no grammar can hold, the order of a box's corners, is mended and counted.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from storyreason import pictures
from storyreason.errors import EngineError
from storyreason.format import analysis, answer, story
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
"""Tokens kept for an ending, over those of the ending written plainly: a poor model spells out what has a token."""


@dataclass(frozen=True, slots=True)
class Grounded:
    """An answer in the published format, valid unless `cut`.

    `unmended` is the answer before boxes were put right, `mended` how many were. `ended`: analysis or story ran into
    its share of the tokens and was ended shortly. `cut`: even the ending ran out of tokens.
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
    """Ask an engine that knows grammars twice, once for the analysis and once for the story.

    With `on_chunk` it streams. Pieces take characters back where a stage was cut in the middle of a row or a mention,
    and where boxes were mended; in the end they have come to the text that this gives.

    Raises EngineAwayError when the same may succeed later, and EngineError when it will not: an endpoint without
    grammars, or `config.max_tokens` too small for so many images.
    """
    sizes = [pictures.size(image) for image in images]
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
    """One answer while it is made: its requests, and what they used up."""

    session: Session
    count: Callable[[str], int]
    max_tokens: int | None
    on_chunk: OnChunk | None
    stop: Stop
    prompt_tokens: int = 0
    tokens: int = 0
    ended: bool = False
    cut: bool = False
    _left: int = field(default=0, init=False)
    _shown: str = field(default="", init=False)  # what the pieces so far come to
    _going_on_from: str = field(default="", init=False)

    def show(self, text: str) -> None:
        """Let the pieces come to `text`, whatever they came to before."""
        if self.on_chunk is None or text == self._shown:
            return
        same = _common_prefix(self._shown, text)
        back, self._shown = len(self._shown) - same, text
        self.on_chunk(Chunk(text[same:], back, self.tokens))

    def analysis(self, sizes: Sizes) -> Analysis:
        least_analysis, least_story = (SAFETY * self.count(text) for text in _shortest_endings(sizes))
        self._left = self._budget() - least_story
        most = self._left - least_analysis
        if most < least_analysis // SAFETY:
            needed = least_analysis + least_analysis // SAFETY + least_story
            raise EngineError(
                f"A grounded answer about {len(sizes)} images needs {needed} tokens or more, "
                f"and has {self._left + least_story}: raise generation.max_tokens, or serving.max_model_len."
            )
        begin = f"{answer.OPEN}\n"
        text, whole = self._go_on(begin, grammar.of_analysis(sizes), most)
        if not whole:
            self.ended = True
            written, _ = analysis.read(text.rpartition("\n")[0])
            text = analysis.render(written)
            if rest := grammar.end_of_analysis(sizes, written):
                more, whole = self._go_on(begin + text, rest, self._left)
                text, self.cut = text + more, not whole
        self._left += least_story
        return analysis.read(text)[0]

    def story(self, of: Analysis, begin: str) -> str:
        least = SAFETY * self.count(_shortest_story(len(of.sections)))
        text, whole = self._go_on(begin, grammar.of_story(of), max(1, self._left - least))
        if not whole:
            self.ended = True
            text = _without_open_tag(text)
            if rest := grammar.end_of_story(of, text):
                more, whole = self._go_on(begin + text, rest, max(1, self._left))
                text, self.cut = text + more, self.cut or not whole
        return text

    def _go_on(self, written: str, rules: str, most: int) -> tuple[str, bool]:
        """What comes after `written` under a grammar, and whether it came to its end within `most` tokens."""
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

    def _forward(self, written: str, piece: Chunk) -> None:
        assert self.on_chunk is not None
        if self._going_on_from is not written:  # nothing is shown before the engine has answered
            self.show(written)
            self._going_on_from = written
        self._shown += piece.text
        self.on_chunk(piece._replace(tokens=self.tokens + piece.tokens))

    def _budget(self) -> int:
        """Tokens for the whole answer: as configured, else what the prompt leaves of the model's length."""
        if self.max_tokens is not None:
            return self.max_tokens
        room = self.session.room(self.stop)
        if room is None:
            raise EngineError("The engine does not say how long its answers may be: set generation.max_tokens.")
        return room


def _common_prefix(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    if other.startswith(one):
        return len(one)
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(other))


def _shortest_endings(sizes: Sizes) -> tuple[str, str]:
    """The longest texts that the grammars of endings allow."""
    few = "abc " * (grammar.FEW // 4)
    images = ", ".join(str(number) for number in range(1, len(sizes) + 1))
    setting = SETTINGS.build([max(SETTING_ELEMENTS, key=len), *[few] * (len(SETTINGS.columns) - 1)], 0)
    phases = tuple(NARRATIVE.build([name, *[few] * (len(NARRATIVE.columns) - 2), images], 0) for name in PHASES)
    sections = tuple(Section(number, settings=(setting,)) for number in range(1, len(sizes) + 1))
    return analysis.render(Analysis(sections, phases)), _shortest_story(len(sizes))


def _shortest_story(images: int) -> str:
    return story.render(Story(tuple(Passage(image, ("abc " * (grammar.FEW // 2),)) for image in range(1, images + 1))))


_Row = TypeVar("_Row", Character, Object)


def _mend(read: Analysis, sizes: Sizes) -> tuple[Analysis, int]:
    """Corners in their order, and no box without an area; how many boxes that changed."""
    sections = tuple(
        replace(one, characters=_mended(one.characters, size), objects=_mended(one.objects, size))
        for one, size in zip(read.sections, sizes, strict=False)
    )
    pairs = zip(read.sections, sections, strict=True)
    count = sum(a.box != b.box for was, now in pairs for a, b in zip(was.entities, now.entities, strict=True))
    return replace(read, sections=sections), count


def _mended(rows: tuple[_Row, ...], size: tuple[int, int]) -> tuple[_Row, ...]:
    return tuple(replace(row, box=row.box and _corners_in_order(row.box, size)) for row in rows)


def _corners_in_order(box: Box, size: tuple[int, int]) -> Box:
    """`10,5,3,5` becomes `3,5,10,6`."""
    (x1, x2), (y1, y2) = sorted((box.x1, box.x2)), sorted((box.y1, box.y2))
    x1, x2 = (x1, x2) if x1 < x2 else (min(x1, size[0] - 1), min(x1, size[0] - 1) + 1)
    y1, y2 = (y1, y2) if y1 < y2 else (min(y1, size[1] - 1), min(y1, size[1] - 1) + 1)
    return Box(x1, y1, x2, y2)


_OPEN_MENTION = re.compile(r"<gd[oal] [^<]*\Z|<[^>]*\Z|<gd[oal] [^<>]*>[^<]*<[^>]*\Z")


def _without_open_tag(text: str) -> str:
    """A story that was cut, without the tag or mention that it ends in the middle of."""
    if cut := _OPEN_MENTION.search(text):
        text = text[: cut.start()]
    text = text.rstrip("\n")
    return text + "\n" if re.search(r"<gdi image[0-9]+>\Z", text) else text
