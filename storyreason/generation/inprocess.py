"""A model folder told from in this process: transformers computes, xgrammar holds it to a grammar.

No server and no second process, so that one story costs little more than loading the model. For many, vLLM is faster.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from storyreason import chat, model
from storyreason.errors import EngineAwayError
from storyreason.generation.config import GenerationConfig
from storyreason.generation.openai import OnPiece, Piece, Stop, Telling


class InProcess:
    """One model, one answer at a time; greedy answers are vLLM's, token for token.

    engine = InProcess("runs/register/0123456789abcdef/model")
    answering.answer_by(engine, "my-story", images, GenerationConfig(decoding="grounded"))
    """

    def __init__(self, folder: Path | str, adapter: Path | str | None = None, longest: int = 4096) -> None:
        """`adapter` is merged into the model, in memory. `longest`: tokens of prompt and answer together, at most.

        Raises ModelError.
        """
        import torch

        self._processor = model.load_processor(str(folder))
        on_gpu = torch.cuda.is_available()
        if adapter is not None:
            loaded: Any = model.merged(str(folder), None, Path(adapter))
            loaded = loaded.to(torch.bfloat16) if on_gpu else loaded
        else:
            loaded = model.load(str(folder), dtype="auto" if on_gpu else "float32")
        self._model = loaded.to("cuda" if on_gpu else "cpu").eval()
        text_config = self._model.config.get_text_config()
        self._longest = min(longest, text_config.max_position_embeddings)
        self._vocabulary = text_config.vocab_size  # the weights' own, which may be more than the tokenizer's
        self._compiler: Any = None

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
        import torch

        inputs = self._inputs(images, config, written)
        prompt = inputs["input_ids"].shape[1]
        sampling: dict[str, Any] = {"do_sample": config.temperature > 0}
        if config.temperature > 0:
            sampling |= {"temperature": config.temperature, "top_p": config.top_p}
            torch.manual_seed(config.seed)
        most = max_tokens or config.max_tokens or max(1, self._longest - prompt)
        with torch.inference_mode():
            output = self._model.generate(
                **inputs,
                **sampling,
                max_new_tokens=most,
                logits_processor=self._held_to(grammar),
                stopping_criteria=[lambda ids, _: torch.full(ids.shape[:1], stop is not None and stop.stopped)],
                streamer=None if on_piece is None else self._streamer(on_piece),
            )
        if stop is not None and stop.stopped:
            raise EngineAwayError("This request was ended by the one who made it.")
        told = output[0, prompt:].tolist()
        ended = bool(told) and told[-1] in self._ends()
        text = self._processor.tokenizer.decode(told, skip_special_tokens=True)
        return Telling(text, not ended, prompt, len(told))

    def count(self, text: str) -> int:
        return len(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def room(self, images: Sequence[bytes], config: GenerationConfig, stop: Stop | None = None) -> int:
        return int(self._longest - self._inputs(images, config, "")["input_ids"].shape[1] - 1)

    def _inputs(self, images: Sequence[bytes], config: GenerationConfig, written: str) -> Any:
        pictures = chat.open_images(images, "story")
        turns = chat.messages(len(images), config.request, config.images_first)
        prompt = self._processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        inputs = self._processor(text=[prompt + written], images=pictures, return_tensors="pt")
        return inputs.to(self._model.device)

    def _ends(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return {*ends, self._processor.tokenizer.eos_token_id}

    def _held_to(self, grammar: str | None) -> list[Callable[..., Any]]:
        """What masks every token that the grammar does not allow next."""
        if grammar is None:
            return []
        import xgrammar
        from xgrammar.contrib.hf import LogitsProcessor

        if self._compiler is None:
            info = xgrammar.TokenizerInfo.from_huggingface(
                self._processor.tokenizer, vocab_size=self._vocabulary, stop_token_ids=sorted(self._ends())
            )
            self._compiler = xgrammar.GrammarCompiler(info)
        return [LogitsProcessor(self._compiler.compile_grammar(grammar))]

    def _streamer(self, on_piece: OnPiece) -> Any:
        from transformers import TextStreamer

        class Streamer(TextStreamer):
            tokens = 0

            def put(self, value: Any) -> None:
                self.tokens += not self.next_tokens_are_prompt
                super().put(value)

            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                if text or stream_end:
                    on_piece(Piece(text, tokens=self.tokens))

        return Streamer(self._processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
