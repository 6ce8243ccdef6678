"""FSDP2: which parts are sharded separately, and whether a sharded checkpoint fits a model."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from storyreason import architecture
from storyreason.compat import models
from storyreason.compat import sharding as replaced
from storyreason.errors import TrainingError

WEIGHTS = "pytorch_model_fsdp_0"
"""accelerate's name for the folder of a checkpoint's shards."""


def by_layer(plugin: Any, base: Any) -> None:
    """Shard each decoder layer and vision block of the base separately, with or without adapters.

    accelerate's file may name layers of its own; where the base has none of these, they are those of its class.
    Gradients are accumulated and reduced in float32. Between the micro-batches of a step each GPU holds all of them: 4
    bytes for each trained number, where bfloat16 would take 2.
    """
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy

    there = {type(module).__name__ for module in base.modules()}
    named = there.intersection(plugin.transformer_cls_names_to_wrap or ())
    plugin.transformer_cls_names_to_wrap = sorted(named or there.intersection(models.layers_of(base)))
    replaced.shard_adapters_by_layer()
    replaced.find_final_norm(last_norm)
    # accelerate would accumulate, reduce and return the loss in the dtype of the products.
    if isinstance(policy := plugin.mixed_precision_policy, MixedPrecisionPolicy):
        plugin.mixed_precision_policy = replace(policy, reduce_dtype=torch.float32, output_dtype=None)
        replaced.accumulate_where_gathered()


def last_norm(base: Any) -> Any:
    """The norm after the last decoder layer, a sibling of the embeddings; or None."""
    for module in base.modules():
        children = dict(module.named_children())
        if "embed_tokens" in children and (found := [children[one] for one in architecture.NORMS if one in children]):
            return found[0]
    return None


def parts(net: Any) -> dict[str, int]:
    """How many parts of a model are gathered separately, by class name. Each layer should be one."""
    from torch.distributed.fsdp import FSDPModule

    kinds = (type(module).__name__ for module in net.modules() if isinstance(module, FSDPModule))
    return dict(Counter(kind.removeprefix("FSDP") for kind in kinds))


def check(checkpoint: Path, base: Any) -> None:
    """Raises TrainingError when the base has a vision tower and a checkpoint of all weights lacks it."""
    from torch.distributed.checkpoint import FileSystemReader

    stored = FileSystemReader(checkpoint / WEIGHTS).read_metadata().state_dict_metadata
    adapters = any("lora_" in name for name in stored)
    wants_tower = any(architecture.in_tower(name) for name, _ in base.named_parameters())
    if wants_tower and not adapters and not any(map(architecture.in_tower, stored)):
        raise TrainingError(
            f"{checkpoint} was written without the vision tower, because all of its features were cached: restore the "
            "former training.feature_cache_gb, make room on the disk, or start over with training.afresh=true."
        )
