"""The tiny base model's tokenizer and processor: Qwen's classes and chat template with a small vocabulary."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLProcessor

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip

TAGS = (
    "<think>\n", "\n</think>\n", "<gdi image", "\n</gdi>\n\n", "\n</gdi>", "<gdo", " <gdo", "</gdo>", "<gda",
    " <gda", "</gda>", "<gdl", " <gdl", "</gdl>", "## Image ",
)  # fmt: skip
_TABLE_HEAD = re.compile(r"\n\n##+ [A-Z][A-Za-z ]+\n+\|[^\n]*\|\n\|[-|]+\|\n")
"""A heading, the columns and the separator of a table: `### Setting` down to `|------|-----|` and its line end."""

CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id is not defined or add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5-VL's own, except that `add_vision_id` is on by default: "Picture 2: " precedes the second image. A
model of this size does not learn to count images."""


def make_processor(texts: Sequence[str], vocabulary: int = 1536) -> "Qwen2_5_VLProcessor":
    """A byte-level BPE of at most `vocabulary` tokens, trained on `texts`; digits stay single, any text can be encoded.

    Tags and the four table headings are one ordinary token each, which makes training and generation cheaper; the base
    never sees them. Frames of up to 448x448 pixels keep their size (256 tokens); larger ones are scaled down to that.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2_5_VLProcessor, Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen2VLVideoProcessor
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    whole = [*TAGS, *sorted({head for text in texts for head in _TABLE_HEAD.findall(text)})]
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.NFC()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL) - len(whole),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=2,
    )
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    settings: dict[str, Any] = {
        "merges": [tuple(pair) for pair in learnt["merges"]],
        "unk_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": list(SPECIAL),
        "model_max_length": 4096,
    }
    tokenizer = Qwen2Tokenizer(vocab=learnt["vocab"], **settings)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in whole])
    sizes = {"shortest_edge": 28 * 28, "longest_edge": 256 * 28 * 28}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=sizes),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=sizes),
        chat_template=CHAT_TEMPLATE,
    )
