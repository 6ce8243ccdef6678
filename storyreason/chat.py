"""Turns examples into chat messages and model inputs.

Training and inference share all of it: system prompt, requests, messages, tokens.
"""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from storyreason import patches
from storyreason.errors import DataError, ModelError
from storyreason.format.answer import CLOSE

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SYSTEM_PROMPT = (
    "You are an AI storyteller that can analyze sequences of images and create creative narratives. First think "
    "step-by-step to analyze characters, objects, settings, and narrative structure. Then create a grounded story that "
    "maintains consistent character identity and object references across frames. Use <think></think> tags to show "
    "your reasoning process before writing the final story."
)
REQUESTS = (
    "",
    "Create a story based on these images.",
    "Tell me a story that connects these images.",
    "Generate a narrative that ties these images together.",
    "Craft a cohesive story from this sequence of images.",
    "Looking at these images, what story could they tell?",
    "Can you create a narrative that explains the progression in these images?",
    "These images form a sequence - please tell the story they represent.",
    "Write a story that captures what's happening across these images.",
    "These images tell a story - what is it?",
)
IGNORED = -100
"""The label of tokens that are excluded from the loss (`ignore_index` in torch)."""


def messages(images: int | Sequence[Any], request: str, images_first: bool = True) -> list[dict[str, Any]]:
    """The system turn and the user turn. `images` are PIL images, or only their number.

    >>> messages(1, "Tell me a story that connects these images.")[1]["content"]
    [{'type': 'image'}, {'type': 'text', 'text': 'Tell me a story that connects these images.'}]
    """
    if isinstance(images, int):
        pictures: list[dict[str, Any]] = [{"type": "image"} for _ in range(images)]
    else:
        pictures = [{"type": "image", "image": image} for image in images]
    text = [{"type": "text", "text": request}] if request else []
    content = pictures + text if images_first else text + pictures
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": content}]


@dataclass(frozen=True, slots=True)
class Inputs:
    """One example for the model.

    `input_ids`, `labels` and `mm_token_type_ids` have shape [tokens], `pixel_values` [patches, patch size] and
    `image_grid_thw` [images, 3]. If training caches the features of a frozen vision tower, `pixel_values` holds those
    features, with shape [image tokens, size].
    """

    input_ids: "Tensor"
    labels: "Tensor"
    mm_token_type_ids: "Tensor"
    pixel_values: "Tensor"
    image_grid_thw: "Tensor"


def special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """What a tokenizer treats as special wherever it stands in a text, such as `<|image_pad|>`."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(dict.fromkeys((*tokenizer.all_special_tokens, *added)))


def refuse_special(request: str, tokenizer: Any) -> None:
    """Raises DataError if a request contains a special token: it would end the user's turn, or stand for a picture."""
    if found := [token for token in special_tokens(tokenizer) if token in request]:
        raise DataError(
            f"The request contains {found[0]}, which the model's tokenizer treats as special: write it without {found[0]}."
        )


class Encoder:
    """Turns examples into inputs with the processor of one base model.

    The parts are available separately because training reuses them differently: pictures and answer are the same in
    every epoch, the request changes. Joined, they equal the output of the processor for the whole example; `check`
    verifies that.
    """

    def __init__(self, processor: Any, images_first: bool = True) -> None:
        """Raises ModelError if the chat template of the base model cannot be split into prompt and answer."""
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.cutting = patches.of(processor)
        self.images_first = images_first
        self.special = special_tokens(self.tokenizer)
        self.end = self._end_of_answer()
        self._prompt = lru_cache(maxsize=4096)(self._prompt_tokens)

    def identity(self) -> str:
        """16 hex digits that identify everything that determines the tokens of answers and pictures."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        words = backend.to_str() if backend is not None else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        pictures = json.dumps(self.processor.image_processor.to_dict(), sort_keys=True, default=str)
        return hashlib.sha256("\0".join([words, self.end, pictures]).encode()).hexdigest()[:16]

    def _render(self, n_images: int, request: str, answer: str | None = None) -> str:
        turns = messages(n_images, request, self.images_first)
        if answer is not None:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        try:
            return str(self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None))
        except (
            Exception
        ) as error:  # jinja has its own exceptions, transformers raises ValueError: the template does not fit
            raise ModelError(f"The base model's chat template cannot render a story's messages: {error}") from error

    def _end_of_answer(self) -> str:
        """The token that ends an answer in the chat template (`<|im_end|>` for Qwen), without the line break after it."""
        prompt, probe = self._render(2, REQUESTS[1]), "<think>\nanalysis\n</think>\nstory"
        whole = self._render(2, REQUESTS[1], probe)
        end = whole.removeprefix(prompt + probe).strip()
        if not whole.startswith(prompt + probe) or end != self.tokenizer.eos_token:
            raise ModelError(
                "The base model's chat template is not supported: expected the prompt, the answer and then the "
                f"end-of-text token {self.tokenizer.eos_token!r}, found {whole[-80:]!r}. Use an instruct model, or give the "
                "base model such a template."
            )
        return end

    def _prompt_tokens(self, n_images: int, request: str) -> tuple[int, ...]:
        text = self.cutting.framed(self._render(n_images, request), self.processor)
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt_length(self, image_tokens: Sequence[int], request: str) -> int:
        """Length in tokens of the prompt of a story. `image_tokens` has the number of tokens of each frame."""
        return len(self._prompt(len(image_tokens), request)) + sum(image_tokens) - len(image_tokens)

    def image_tokens(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """The number of tokens of each frame; `sizes` are (width, height) in pixels. No picture is decoded."""
        return self.cutting.tokens(self.processor, sizes)

    def pictures(self, images: "Sequence[Image]") -> "tuple[Tensor, Tensor]":
        """Patches [patches, patch size] and grids [images, 3] (time, height, width in patches) of the frames."""
        found = self.processor.image_processor(images=list(images), return_tensors="pt")
        return self.cutting.cut(found)

    def answer(self, text: str) -> list[int]:
        """The tokens that the model has to generate: the answer and the end of its turn.

        A special token that stands in the text, such as `<|im_end|>`, is encoded as the characters it consists of.
        """
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*encoded, self.tokenizer.convert_tokens_to_ids(self.end)]

    def analysis_length(self, answer: Sequence[int]) -> int:
        """How many tokens of an answer there are up to the end of its analysis, `</think>`; 0 without one."""

        def ended(length: int) -> bool:
            return CLOSE in self.tokenizer.decode(answer[:length])

        length = bisect_left(range(len(answer) + 1), True, key=ended)
        return length if length <= len(answer) else 0

    def special_in(self, text: str) -> list[str]:
        """The special tokens of the base that stand in a text."""
        return [token for token in self.special if token in text]

    def refuses(self, size: tuple[int, int]) -> str:
        """Why the base cannot take a picture of this size, (width, height) in pixels; empty if it can."""
        try:
            self.image_tokens([size])
        except (ValueError, ArithmeticError) as error:  # transformers' processors raise no other for a size
            return f"the base model cannot take a picture of {size[0]} x {size[1]} pixels ({error})"
        return ""

    def join(
        self,
        pictures: "tuple[Tensor, Tensor]",
        request: str,
        answer: Sequence[int],
        loss: Literal["answer", "all"] = "answer",
        unlearnt: int = 0,
    ) -> Inputs:
        """Joins the parts of one example. Labels cover the answer only, or everything but the image tokens (`all`).

        With `unlearnt` they cover only what comes after that many tokens of the answer.
        """
        import torch

        pixels, grids = pictures
        image_token = self.processor.image_token_id
        merged = self.cutting.cell(self.processor)
        counts = iter((grids.prod(dim=1) // merged).tolist())
        prompt: list[int] = []
        for token in self._prompt(
            len(grids), request
        ):  # each frame has one image token, which is repeated once per feature
            prompt.extend([image_token] * next(counts) if token == image_token else [token])
        input_ids = torch.tensor([*prompt, *answer])
        is_image = input_ids == image_token
        labels = input_ids.masked_fill(is_image, IGNORED)
        if loss == "answer" or unlearnt:
            labels[: len(prompt) + unlearnt] = IGNORED
        return Inputs(input_ids, labels, is_image.long(), pixels, grids)

    def check(self, images: "Sequence[Image]", answer: str) -> None:
        """Raises ModelError unless the joined parts equal the output of the processor for the whole example."""
        request = REQUESTS[1]
        ours = self.join(self.pictures(images), request, self.answer(answer))
        text = self._render(len(images), request) + answer + self.end
        found = self.processor(text=[text], images=list(images), return_tensors="pt", return_mm_token_type_ids=True)
        pixels, grids = self.cutting.cut(found)
        theirs = {name: found[name][0] for name in ("input_ids", "mm_token_type_ids")}
        for name, whole in {**theirs, "pixel_values": pixels, "image_grid_thw": grids}.items():
            if whole.shape != getattr(ours, name).shape or not bool((whole == getattr(ours, name)).all()):
                raise ModelError(
                    f"The base model's processor returns unexpected {name}: its files do not belong together. Take all of "
                    "them from one place."
                )
