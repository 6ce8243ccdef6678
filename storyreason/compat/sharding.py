"""Functions of FSDP2 that are replaced, in the whole process: accelerate's, torch's and transformers'."""

from collections.abc import Callable
from typing import Any

Module = Any


def shard_adapters_by_layer() -> None:
    """Keep the Trainer from replacing the policy that shards each layer by itself.

    With adapters it puts peft's wrapping for FSDP1 in its place. FSDP2 does not know that one and shards the whole model
    as one part: every process would gather all weights at once. FSDP2 takes frozen and trained weights in one layer.
    """
    from transformers import trainer

    trainer.update_fsdp_plugin_peft = lambda model, accelerator: None


def find_final_norm(find: Callable[[Module], Module]) -> None:
    """Have accelerate find the last norm by `find` first; its own search follows where that gives None.

    accelerate makes one part of the head and the last norm, but looks for the norm in `base.model` alone, and Qwen2.5-VL
    has it one deeper. A head by itself is gathered when it is called; Liger reads its weight and never calls it.
    """
    from accelerate.utils import fsdp_utils

    theirs = fsdp_utils._find_final_norm
    fsdp_utils._find_final_norm = lambda model: find(model) or theirs(model)


def accumulate_where_gathered() -> None:
    """Have torch skip parts that were not gathered when it accumulates gradients in float32 between passes.

    It asks for the gradients of each part after a pass without reduction, also of one that never ran, such as a frozen
    tower whose features are read from the cache in this pass.
    """
    from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam

    accumulate = FSDPParam.to_accumulated_grad_if_needed

    def if_gathered(self: FSDPParam) -> None:
        if hasattr(self, "_unsharded_param"):
            accumulate(self)

    FSDPParam.to_accumulated_grad_if_needed = if_gathered  # type: ignore[method-assign]
