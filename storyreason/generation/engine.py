"""What runs a model, whether in this process or behind an address: pictures and a request in, text out."""

from collections.abc import Sequence
from typing import Protocol

from storyreason.generation.config import GenerationConfig
from storyreason.generation.openai import Completion, OnChunk, Stop


class Session(Protocol):
    """The requests for one story. They share its pictures, which are encoded once."""

    def tell(
        self,
        *,
        written: str = "",
        grammar: str | None = None,
        max_tokens: int | None = None,
        on_chunk: OnChunk | None = None,
        stop: Stop | None = None,
    ) -> Completion:
        """Answer once, continuing what is `written` of the answer already, under a grammar (GBNF) if there is one.

        `max_tokens` takes precedence over the configured limit. With `on_chunk` the answer is streamed; `stop` ends the
        request from another thread. Raises EngineAwayError for a failure that may pass, EngineError for any other.
        """
        ...

    def room(self, stop: Stop | None = None) -> int | None:
        """Tokens left for an answer after the prompt; None if the engine does not say. Raises as `tell` does."""
        ...


class Engine(Protocol):
    """`openai.Endpoint` is one, `inprocess.InProcess` another."""

    def session(self, images: Sequence[bytes], config: GenerationConfig) -> Session:
        """The requests for a story of `images` (encoded pictures: PNG, JPEG, ...)."""
        ...

    def count(self, text: str) -> int:
        """Tokens of a text; an upper bound if the engine cannot say exactly."""
        ...
