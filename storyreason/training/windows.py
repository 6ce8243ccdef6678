"""Attention in the vision tower of Qwen's families, on a GPU: over all windows and frames in one call.

transformers asks for attention once for each window (18 for a frame of 420x180 pixels, in each of 28 layers), unless the
name of the attention has "flash" in it: then it hands over where the windows end, as FlashAttention wants it. torch has such
a kernel, too. On an H100, 144 windows took 0.47 ms instead of 4 (benchmarks/results/gpu.json).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ATTENTION = "storyreason_flash_windows"
"""The name under which transformers knows `attend`; it must contain "flash"."""


def join(base: Any) -> None:
    """Make the tower of a base attend to all windows of all pictures in one call."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend)
    base.set_attn_implementation({"vision_config": ATTENTION})


def attend(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: None,
    scaling: float,
    cu_seq_lens_q: "torch.Tensor",
    max_length_q: int,
    **others: Any,
) -> "tuple[torch.Tensor, None]":
    """Attention within each window: query, key and value are [1, heads, tokens, head size], the result [1, tokens, heads,
    head size]. `cu_seq_lens_q` are the windows' ends, from 0. The interface is transformers'."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    if query.is_cuda and value.dtype is not torch.float32:
        from torch.nn.attention.varlen import varlen_attn

        # Autocast does not know this operation.
        q, k, v = (tensor.transpose(1, 2)[0].to(value.dtype) for tensor in (query, key, value))
        ends = cu_seq_lens_q.to(torch.int32)
        attended: Any = varlen_attn(q, k, v, ends, ends, max_length_q, max_length_q, scale=scaling)
        return attended[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    parts = [
        scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2)
        for q, k, v in zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, dim=1), None
