"""A model folder that generates in this process, with transformers and, under a grammar, xgrammar.

Without a server or a second process, one story takes little longer than loading the model. For many, vLLM is faster.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyreason import adapters, chat
from storyreason import model as models
from storyreason.errors import EngineAwayError
from storyreason.generation.config import GenerationConfig
from storyreason.generation.openai import Chunk, Completion, OnChunk, Stop
from storyreason.pictures import open_frames

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 49_152
"""Tokens of prompt and answer, as the presets of published bases serve them. Such a base takes 128,000 or more, and a model that
does not come to an end would fill the memory with them."""


class InProcess:
    """One model, one answer at a time. Greedy answers equal vLLM's, token for token.

    engine = InProcess("runs/register/0123456789abcdef/model")
    answering.answer_by(engine, "my-story", images, GenerationConfig(decoding="grounded"))
    """

    def __init__(
        self,
        folder: Path | str,
        adapter: Path | str | None = None,
        longest: int = LONGEST,
        say: Callable[[str], None] = models.log.info,
        revision: str | None = None,
    ) -> None:
        """`adapter`, or that of the folder, is merged into the model in memory; `say` gets a sentence on what it changed.
        `longest`: most tokens of prompt and answer, as far as the model takes them. `revision`: of a name on the Hub.

        Raises ModelError.
        """
        import torch

        if adapter is None and (found := adapters.of(folder)):
            folder, adapter, revision = found.base, found.folder, found.revision
        self.processor = models.load_processor(str(folder), revision)
        on_gpu = torch.cuda.is_available()
        if adapter is not None:
            loaded: Any = models.merged(str(folder), revision, Path(adapter), say)
            loaded = loaded.to(torch.bfloat16) if on_gpu else loaded
        else:
            loaded = models.load(str(folder), revision, dtype="auto" if on_gpu else "float32")
        self.model = loaded.to("cuda" if on_gpu else "cpu").eval()
        self.ends = _ends(self.model.generation_config.eos_token_id, self.processor.tokenizer.eos_token_id)
        _sample_as_asked(self.model, self.ends)
        text_config = self.model.config.get_text_config()
        self.longest = min(longest, text_config.max_position_embeddings)
        self._vocabulary = text_config.vocab_size  # of the weights, which may be larger than the tokenizer's
        self._compiler: Any = None

    def session(self, images: Sequence[bytes], config: GenerationConfig) -> "InProcessSession":
        """Raises DataError for a picture that does not decode, and for a request with a special token of the model."""
        chat.refuse_special(config.request, self.processor.tokenizer)
        return InProcessSession(self, open_frames(images, "story"), config)

    def count(self, text: str) -> int:
        return len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def held_to(self, grammar: str | None) -> list[Callable[..., Any]]:
        """The logits processor that masks every token which the grammar does not allow next."""
        if grammar is None:
            return []
        import xgrammar
        from xgrammar.contrib.hf import LogitsProcessor

        if self._compiler is None:
            info = xgrammar.TokenizerInfo.from_huggingface(
                self.processor.tokenizer, vocab_size=self._vocabulary, stop_token_ids=self.ends
            )
            self._compiler = xgrammar.GrammarCompiler(info)
        return [LogitsProcessor(self._compiler.compile_grammar(grammar))]


@dataclass(frozen=True, slots=True)
class InProcessSession:
    """An `engine.Session` with a model in this process. Its pictures are decoded once."""

    engine: InProcess
    pictures: "list[Image]"
    config: GenerationConfig

    def tell(
        self,
        *,
        written: str = "",
        grammar: str | None = None,
        max_tokens: int | None = None,
        on_chunk: OnChunk | None = None,
        stop: Stop | None = None,
    ) -> Completion:
        import torch

        engine, config = self.engine, self.config
        inputs = self._inputs(written)
        prompt = inputs["input_ids"].shape[1]
        sampling: dict[str, Any] = {"do_sample": config.temperature > 0}
        if config.temperature > 0:
            sampling |= {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
            torch.manual_seed(config.seed)
        most = max_tokens or config.max_tokens or max(1, engine.longest - prompt)
        with torch.inference_mode():
            output = engine.model.generate(
                **inputs,
                **sampling,
                max_new_tokens=most,
                logits_processor=engine.held_to(grammar),
                stopping_criteria=[lambda ids, _: torch.full(ids.shape[:1], stop is not None and stop.stopped)],
                streamer=None if on_chunk is None else _streamer(engine.processor.tokenizer, on_chunk),
            )
        if stop is not None and stop.stopped:
            raise EngineAwayError("The caller cancelled this request.")
        told = output[0, prompt:].tolist()
        ended = bool(told) and told[-1] in engine.ends
        text = engine.processor.tokenizer.decode(told, skip_special_tokens=True)
        return Completion(text, not ended, prompt, len(told))

    def room(self, stop: Stop | None = None) -> int:
        return int(self.engine.longest - self._inputs("")["input_ids"].shape[1] - 1)

    def _inputs(self, written: str) -> Any:
        processor = self.engine.processor
        turns = chat.messages(len(self.pictures), self.config.request, self.config.images_first)
        prompt = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[prompt + written], images=self.pictures, return_tensors="pt")
        return inputs.to(self.engine.model.device)


def _ends(of_model: int | list[int] | None, of_tokenizer: int | None) -> list[int]:
    """The tokens that end an answer, as vLLM takes them: those of the folder's `generation_config.json`, and the tokenizer's."""
    named = of_model if isinstance(of_model, list) else [of_model]
    return sorted({end for end in (*named, of_tokenizer) if end is not None})


def _sample_as_asked(model: Any, ends: list[int]) -> None:
    """Keep only the special tokens of a folder's `generation_config.json`: transformers would apply its penalties and limits to
    every answer, greedy ones too."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id, eos_token_id=ends, pad_token_id=own.pad_token_id
    )


def _streamer(tokenizer: Any, on_chunk: OnChunk) -> Any:
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        tokens = 0

        def put(self, value: Any) -> None:
            self.tokens += not self.next_tokens_are_prompt
            super().put(value)  # type: ignore[no-untyped-call]

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text or stream_end:
                on_chunk(Chunk(text, tokens=self.tokens))

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
