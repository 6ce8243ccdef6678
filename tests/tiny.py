"""What model tests start from: an untrained model of the real class with a few thousand parameters, and a few stories."""

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from storyreason import dataset, sample


@pytest.fixture(scope="session")
def tiny_examples() -> list[dataset.Example]:
    """Sixteen stories of eight films."""
    return list(sample.examples("train", seed=3, films=8))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory, tiny_examples: list[dataset.Example]) -> Path:
    """The same as a data folder, with a train split alone."""
    folder = tmp_path_factory.mktemp("tiny-data")
    dataset.write(tiny_examples, folder, "train")
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory, tiny_examples: list[dataset.Example]) -> Path:
    """An untrained base model's folder."""
    return write_base(tmp_path_factory.mktemp("tiny") / "base", tiny_examples)


def write_base(folder: Path, examples: Sequence[dataset.Example], seed: int = 0) -> Path:
    """A `Qwen2_5_VLForConditionalGeneration` with random weights and a tokenizer learnt from the examples' texts."""
    import torch
    from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from storyreason.sample.tokenizer import make_processor

    processor = make_processor([text for one in examples for text in (one.chain_of_thought, one.story)], 640)
    tokenizer = processor.tokenizer
    torch.manual_seed(seed)
    special = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "mrope_section": [2, 3, 3]},
            "initializer_range": 0.06,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0, 1],
            "window_size": 56,
            "initializer_range": 0.06,
        },
        image_token_id=special("<|image_pad|>"),
        video_token_id=special("<|video_pad|>"),
        vision_start_token_id=special("<|vision_start|>"),
        vision_end_token_id=special("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing more than `size` bytes to a file fails in this process and its children, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
