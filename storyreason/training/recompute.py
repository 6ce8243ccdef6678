"""Which activations the backward pass computes again, in each layer that is checkpointed.

`selective` keeps what is dear for its size: attention, whose operations grow with the square of the tokens, and products
whose result is no wider than what goes in. Of a decoder layer of Qwen2.5-VL 7B those are q, k, v, attention, o and the
MLP's way down, 15,360 numbers a token; computed again are the MLP's two ways up (37,888 numbers a token, 58 % of the layer's
products), norms and activations.
"""

from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

Recompute = Literal["none", "selective", "all"]
PRODUCTS = {
    torch.ops.aten.mm.default: 0,
    torch.ops.aten.bmm.default: 0,
    torch.ops.aten.addmm.default: 1,
    torch.ops.aten.baddbmm.default: 1,
}
"""Products of matrices, and which of their arguments is the one on the left."""


def how(wanted: Recompute) -> dict[str, Any]:
    """What `gradient_checkpointing_enable` of transformers is given."""
    if wanted == "selective":
        return {"use_reentrant": False, "context_fn": partial(create_selective_checkpoint_contexts, policy)}
    return {"use_reentrant": False}


def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Whether the result of an operation is kept."""
    if operation in PRODUCTS:
        left, right = args[PRODUCTS[operation] :][:2]
        keep = right.shape[-1] <= left.shape[-1]
    else:  # torch's own kernels, and FlashAttention's
        keep = any(name in str(operation) for name in ("scaled_dot_product", "flash_attn"))
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE
