"""What runs a model, whether in this process or behind an address: pictures and a request in, text out."""

from collections.abc import Sequence
from typing import Protocol

from storyreason.generation.config import GenerationConfig
from storyreason.generation.openai import OnPiece, Stop, Telling


class Engine(Protocol):
    """`openai.Endpoint` is one, `inprocess.InProcess` another. Both raise EngineError, or EngineAwayError for what passes."""

    def tell(
        self,
        images: Sequence[bytes],
        config: GenerationConfig,
        *,
        written: str = "",
        grammar: str | None = None,
        max_tokens: int | None = None,
        on_piece: OnPiece | None = None,
        stop: Stop | None = None,
    ) -> Telling:
        """Answer once, going on after what is `written` of the answer already, and under a grammar (GBNF) if there is one.

        `images` are encoded pictures; `max_tokens` goes before the configured one.
        """
        ...

    def count(self, text: str) -> int:
        """Tokens of a text, or somewhat more."""
        ...

    def room(self, images: Sequence[bytes], config: GenerationConfig, stop: Stop | None = None) -> int | None:
        """Tokens that an answer may have, after its prompt; None: the engine does not say."""
        ...
