"""Stories and models for `benchmarks/training.py`."""

import io
import random
from typing import Any, Literal


class World:
    """Stories to train on, for models of one size."""

    lengths: list[int]
    answers: list[int]
    images: list[int]
    """The tokens of each story, of its answer, and of its pictures."""

    def inputs(self, index: int, loss: Literal["answer", "all"]) -> Any:
        """A story's inputs, from its encoded pictures and its text."""
        raise NotImplementedError


class Tiny(World):
    """The sample world's stories and an untrained model of the tiny base's shape."""

    def __init__(self, stories: int) -> None:
        from storyreason import chat, sample
        from storyreason.format import answer
        from storyreason.sample.base import vocabulary_texts
        from storyreason.sample.tokenizer import make_processor

        self.processor = make_processor(vocabulary_texts())
        self.encoder = chat.Encoder(self.processor)
        self.examples = list(sample.examples("train", films=-(-stories // 2)))[:stories]
        self.texts = [answer.join(one.chain_of_thought, one.story) for one in self.examples]
        made = [self.inputs(index, "answer") for index in range(stories)]
        self.lengths = [len(one.input_ids) for one in made]
        self.answers = [int((one.labels != chat.IGNORED).sum()) for one in made]
        self.images = [int(one.mm_token_type_ids.sum()) for one in made]

    def model(self) -> Any:
        from storyreason.sample.base import new_model

        return new_model(self.processor)

    def inputs(self, index: int, loss: Literal["answer", "all"]) -> Any:
        from storyreason import chat
        from storyreason.pictures import open_frames

        pictures = open_frames(self.examples[index].images, "")
        return self.encoder.join(
            self.encoder.pictures(pictures), chat.REQUESTS[1], self.encoder.answer(self.texts[index]), loss
        )


class Seven(World):
    """Qwen2.5-VL-7B's shape with random weights; stories of 8 frames of 575x240 pixels, answers of 2,000 to 8,000 tokens.

    A small one, for dry runs on a CPU, has narrow layers, 2 frames and answers of 60 tokens and more.
    """

    PROMPT, IMAGE, START, END, VOCABULARY = 120, 151655, 151652, 151653, 151_643

    def __init__(self, stories: int, longest: int | None = None, *, layers: int = 28, small: bool = False) -> None:
        from PIL import Image

        self.layers = layers
        self.small = small
        self.frames = 2 if small else 8
        luck = random.Random(0)
        self.answers = [60 + index if small else luck.randint(2000, 8000) for index in range(stories)]
        # One picture for all: a model with random weights does not care what it shows.
        picture = Image.effect_noise((575, 240), 60).convert("RGB")
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=90)
        self.jpeg = encoded.getvalue()
        self.image_tokens = len(self._patches(1)[0]) // 4
        prompt = self.PROMPT + self.frames * (self.image_tokens + 2)
        if longest:
            self.answers = [longest - prompt] * stories
        self.lengths = [prompt + answer for answer in self.answers]
        self.images = [self.frames * self.image_tokens] * stories

    def model(self) -> Any:
        import torch
        from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

        text = {
            "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": self.layers,
            "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 128_000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": False,
        }  # fmt: skip
        vision = {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
            "fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112,
        }  # fmt: skip
        if self.small:
            text |= {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
            text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
            vision |= {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
            vision["fullatt_block_indexes"] = [1]
        config = Qwen2_5_VLConfig(
            text_config=text, vision_config=vision, tie_word_embeddings=False, image_token_id=self.IMAGE,
            vision_start_token_id=self.START, vision_end_token_id=self.END,
        )  # fmt: skip
        torch.manual_seed(0)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            return AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)

    def _patches(self, frames: int) -> tuple[Any, Any]:
        import torch
        from PIL import Image
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        made = Qwen2VLImageProcessorPil()
        pictures = [Image.open(io.BytesIO(self.jpeg)).convert("RGB") for _ in range(frames)]
        found = made(images=pictures, return_tensors="pt")
        return torch.as_tensor(found["pixel_values"]), torch.as_tensor(found["image_grid_thw"])

    def inputs(self, index: int, loss: Literal["answer", "all"]) -> Any:
        import torch

        from storyreason import chat

        luck = torch.Generator().manual_seed(index)

        def text(tokens: int) -> torch.Tensor:
            return torch.randint(0, self.VOCABULARY, (tokens,), generator=luck)

        frame = torch.tensor([self.START, *[self.IMAGE] * self.image_tokens, self.END])
        ids = torch.cat([text(self.PROMPT), frame.repeat(self.frames), text(self.answers[index])])
        labels = ids.masked_fill(ids == self.IMAGE, chat.IGNORED)
        if loss == "answer":
            labels[: -self.answers[index]] = chat.IGNORED
        return chat.Inputs(ids, labels, (ids == self.IMAGE).long(), *self._patches(self.frames))
