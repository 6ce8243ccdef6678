"""The boxes of a stream, converted while it is written."""

from collections.abc import Sequence

from storyreason.format.grids import BoxLines, Change
from storyreason.generation.openai import Chunk, OnChunk


class ConvertedChunks:
    """An `OnChunk` that passes chunks on with their boxes converted, as `grids.converted` does with the whole text.

    A row of a table is held back until its line is complete. Call `end` after the last chunk.
    """

    def __init__(self, on_chunk: OnChunk, changes: Sequence[Change]) -> None:
        self._on_chunk = on_chunk
        self._changes = changes
        self._written = ""  # by the model
        self._sent = ""
        self._tokens = 0
        self._begin()

    def _begin(self) -> None:
        self._lines = BoxLines(self._changes)
        self._line = ""  # the unfinished line
        self._shown = 0  # how many of its characters were sent

    def __call__(self, chunk: Chunk) -> None:
        self._tokens = chunk.tokens
        before = len(self._written) - chunk.back
        self._written = self._written[:before] + chunk.text
        if not chunk.back:
            more = self._read(chunk.text)
            self._sent += more
            self._on_chunk(chunk._replace(text=more))
            return
        # Rare: where a stage was cut, and where boxes were repaired.
        self._begin()
        self._replace(self._read(self._written))

    def end(self) -> None:
        """Send what was held back: the last row of an answer that was cut off."""
        self._sent += (rest := self._lines.line(self._line)[self._shown :])
        if rest:
            self._on_chunk(Chunk(rest, tokens=self._tokens))

    def _replace(self, text: str) -> None:
        """Send the chunk that turns what was sent so far into `text`."""
        same = next(
            (place for place, (a, b) in enumerate(zip(self._sent, text, strict=False)) if a != b),
            min(len(self._sent), len(text)),
        )
        back, self._sent = len(self._sent) - same, text
        self._on_chunk(Chunk(text[same:], back, self._tokens))

    def _read(self, text: str) -> str:
        """The converted text that can be sent now that `text` was written."""
        ready: list[str] = []
        *ends, rest = text.split("\n")
        for end in ends:
            ready += self._lines.line(self._line + end)[self._shown :], "\n"
            self._line, self._shown = "", 0
        self._line += rest
        if self._lines.closed or self._line.lstrip()[:1] not in ("", "|"):
            ready.append(self._line[self._shown :])
            self._shown = len(self._line)
        return "".join(ready)
