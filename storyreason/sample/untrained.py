"""Untrained tiny models of every family's own class, to try the pipeline on: they load and train, and tell nonsense."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storyreason import dataset

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8192,
    "initializer_range": 0.06,
    "tie_word_embeddings": True,
    "bos_token_id": None,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 32,
    "initializer_range": 0.06,
}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 50.0}
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen2_5_vl": (
        "Qwen2_5_VL",
        {"rope_parameters": {**ROPE, "mrope_section": [2, 3, 3]}},
        {"depth": 2, "fullatt_block_indexes": [0, 1], "window_size": 56},
    ),
    "qwen3_vl": (
        "Qwen3VL",
        {"head_dim": 16, "rope_parameters": {**ROPE, "mrope_section": [4, 2, 2], "mrope_interleaved": True}},
        {"depth": 3, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
    ),
    "qwen3_5": (
        "Qwen3_5",
        {
            "head_dim": 32,
            "rope_parameters": {
                **ROPE,
                "partial_rotary_factor": 0.5,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 1,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
        {"depth": 2, "num_position_embeddings": 64},
    ),
    "lfm2_vl": (
        "Lfm2Vl",
        {
            "rope_parameters": dict(ROPE),
            "layer_types": ["conv", "full_attention"],
            "block_auto_adjust_ff_dim": False,
            "conv_dim": 32,  # published ones have these two, and vLLM reads them
            "block_dim": 32,
        },
        {"num_hidden_layers": 2, "num_attention_heads": 2, "num_patches": 64, "vision_use_head": False},
    ),
}
"""The beginning of the names of each family's classes, and what its language model and its tower have of their own."""


WIDE_TOWER: dict[str, Any] = {"hidden_size": 128, "out_hidden_size": 128}
WIDE_TEXT: dict[str, Any] = {"hidden_size": 128, "num_key_value_heads": 2}
WIDE: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {"rope_parameters": {**ROPE, "mrope_section": [8, 12, 12]}},
    "qwen3_vl": {
        "head_dim": 64,
        "rope_parameters": {**ROPE, "mrope_section": [16, 8, 8], "mrope_interleaved": True},
    },
    "qwen3_5": {
        "head_dim": 128,
        "rope_parameters": {
            **ROPE,
            "partial_rotary_factor": 0.5,
            "mrope_section": [16, 8, 8],
            "mrope_interleaved": True,
        },
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
    },
    "lfm2_vl": {"conv_dim": 128, "block_dim": 128},
}
"""Heads that vLLM computes with: of 64 and more, in linear layers of 128."""
FRAMES = ("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>")
"""The special tokens of LFM2.5-VL's processor that Qwen's tokenizers lack."""


def write(
    folder: Path,
    examples: "Sequence[dataset.Example]",
    seed: int = 0,
    family: str = "qwen2_5_vl",
    wide: bool = False,
) -> Path:
    """As `write_from`, with a small tokenizer learnt from the examples' texts."""
    texts = [text for one in examples for text in (one.chain_of_thought, one.story)]
    return write_from(folder, texts, seed, family, wide)


def write_from(folder: Path, texts: Sequence[str], seed: int, family: str, wide: bool, vocabulary: int = 640) -> Path:
    """A model of a family's own class with random weights, and a tokenizer learnt from texts.

    `wide`: one that vLLM takes.
    """
    import torch
    import transformers

    processor = make_processor(texts, family, vocabulary)
    tokenizer = processor.tokenizer
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    classes, text, tower = FAMILIES[family]
    more: dict[str, Any] = {"projector_hidden_size": 64}
    if family != "lfm2_vl":
        names = ("video_token_id", "vision_start_token_id", "vision_end_token_id")
        tokens = ("<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
        more = dict(zip(names, tokenizer.convert_tokens_to_ids(list(tokens)), strict=True))
    config = getattr(transformers, f"{classes}Config")(
        text_config={
            **TEXT,
            **text,
            **(WIDE_TEXT | WIDE[family] if wide else {}),
            **ends,
            "vocab_size": len(tokenizer),
        },
        vision_config={**TOWER, **tower, **(WIDE_TOWER if wide else {})},
        image_token_id=processor.image_token_id,
        tie_word_embeddings=True,
        **more,
    )
    torch.manual_seed(seed)
    model = getattr(transformers, f"{classes}ForConditionalGeneration")(config)
    model.generation_config = transformers.GenerationConfig(**ends, do_sample=False)
    model.save_pretrained(folder)
    if family == "lfm2_vl":
        _name_as_published(folder / "model.safetensors")
    processor.save_pretrained(folder)
    return folder


def _name_as_published(file: Path) -> None:
    """Published towers of LFM2.5-VL are one level deeper than transformers has them. It renames them on loading, and back on
    writing what was loaded so; vLLM knows the published names alone."""
    from safetensors.torch import load_file, save_file

    weights = {
        name.replace("vision_tower.", "vision_tower.vision_model."): tensor for name, tensor in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})


def make_processor(texts: Sequence[str], family: str, vocabulary: int) -> Any:
    """The processor of a family, with a small vocabulary, and Qwen2.5-VL's template if the family has none of ours."""
    from transformers import (
        Lfm2VlImageProcessor,
        Lfm2VlProcessor,
        Qwen2VLImageProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    from storyreason import architecture
    from storyreason.sample import tokenizer

    made = tokenizer.make_processor(texts, vocabulary)
    if family == "qwen2_5_vl":
        return made
    if family == "lfm2_vl":
        made.tokenizer.add_special_tokens(
            {"additional_special_tokens": list(FRAMES)}, replace_extra_special_tokens=False
        )
        cutting = Lfm2VlImageProcessor(min_image_tokens=4, max_image_tokens=256)
        return Lfm2VlProcessor(cutting, made.tokenizer, chat_template=architecture.PLAIN_LFM)
    grey, size = [0.5] * 3, {"shortest_edge": 32 * 32, "longest_edge": 256 * 32 * 32}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, image_mean=grey, image_std=grey, size=size),
        tokenizer=made.tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=size),
        chat_template=made.chat_template,
    )
