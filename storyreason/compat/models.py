"""Private attributes of transformers' models, configurations and processors."""

from collections.abc import Iterable, Sequence
from typing import Any

IMAGE_TOKEN_COUNTER = "_get_num_multimodal_tokens"
"""The method of a processor that `image_tokens` needs."""


def image_tokens(processor: Any, sizes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The tokens of each picture; `sizes` are (width, height) in pixels. No picture is decoded."""
    counted = getattr(processor, IMAGE_TOKEN_COUNTER)(image_sizes=[(height, width) for width, height in sizes])
    return tuple(int(count) for count in counted["num_image_tokens"])


def commit_of(config: Any) -> str | None:
    """The Hub's commit that a configuration was loaded from; None for a folder."""
    commit: str | None = config._commit_hash
    return commit


def layers_of(base: Any) -> Iterable[str]:
    """The class names of a model's layers, which FSDP shards one by one."""
    names: Iterable[str] = base._no_split_modules
    return names


def made(kind: Any, config: Any) -> Any:
    """A part of a model by its class, with random weights in float32."""
    import torch

    return kind._from_config(config, dtype=torch.float32)


def use_one_gpu(arguments: Any) -> None:
    """Keep a Trainer that sees several GPUs in one process from wrapping its model in DataParallel."""
    arguments._n_gpu = min(1, arguments.n_gpu)
