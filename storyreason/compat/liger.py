"""Liger's rotary embedding for Qwen2.5-VL; and what Liger's kernels allocate, without a GPU: they are Triton's."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd import Function


class Norm(Function):
    """Liger's RMSNorm keeps its input and one number a row, and writes the gradient over the one that it gets."""

    @staticmethod
    def forward(
        ctx: Any, x: Any, weight: Any, eps: Any, offset: Any = 0, cast: Any = "", in_place: bool = True, *_: Any
    ) -> Any:
        ctx.in_place = in_place
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, weight, _ = ctx.saved_tensors
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        return (gradient if ctx.in_place else torch.empty_like(x)), of_weight, *(None for _ in ctx.needs_input_grad[2:])


class Gated(Function):
    """Liger's SwiGLU keeps its two inputs, and writes their gradients over them."""

    @staticmethod
    def forward(ctx: Any, gate: Any, up: Any, *_: Any) -> Any:
        ctx.save_for_backward(gate, up)
        return torch.empty_like(gate)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return *ctx.saved_tensors, *(None for _ in ctx.needs_input_grad[2:])


class Rotated(Function):
    """Liger's rotary embedding writes over its inputs and their gradients."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, *_: Any) -> Any:
        return q.view_as(q), k.view_as(k)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return *gradients, *(None for _ in ctx.needs_input_grad[2:])


class Head(Function):
    """Liger's loss makes logits in chunks of about as many numbers as the hidden states, and gradients at once."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any) -> Any:
        tokens, size = hidden.shape
        chunk = min(tokens, 1 << (-(-tokens // -(-len(weight) // size)) - 1).bit_length())
        of_hidden = torch.zeros_like(hidden)
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        logits = hidden[:chunk] @ weight.t()
        if of_weight is not None:
            del logits
            of_weight = of_weight.to(weight.dtype)
        ctx.save_for_backward(of_hidden, of_weight)
        return hidden.new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return ctx.saved_tensors


def rotate(base: Any) -> None:
    """Let a model rotate queries and keys by Liger's kernel. It writes over them, so no backward pass may need what they were.

    Liger itself does so for Qwen3-VL. For Qwen2.5-VL it replaces a function that transformers no longer has.
    """
    from liger_kernel.transformers.rope import liger_rotary_pos_emb

    module: Any = sys.modules[type(base).__module__]
    module.apply_rotary_pos_emb = liger_rotary_pos_emb


def _rotated(name: str, q: Any, k: Any, *_: Any, **__: Any) -> Any:
    return Rotated.apply(q, k)  # type: ignore[no-untyped-call]


@contextmanager
def counted(net: Any, rotates: bool) -> Iterator[None]:
    """Give a model Liger's kernels as a training does, each replaced by one that only allocates. `rotates`: `rotate`, too.

    Liger replaces names in the modules of transformers, too: all are put back.
    """
    from liger_kernel.transformers import rms_norm, rope, swiglu
    from transformers.integrations.liger import apply_liger_kernel

    base = net.get_base_model() if hasattr(net, "get_base_model") else net
    modules: tuple[Any, ...] = (sys.modules[type(base).__module__], rms_norm, rope, swiglu)
    before = [dict(vars(module)) for module in modules]
    try:
        rms_norm.LigerRMSNormFunction, swiglu.LigerSiLUMulFunction, rope.dispatch = Norm, Gated, _rotated
        apply_liger_kernel(base, None)
        if rotates:
            rotate(base)
        yield
    finally:
        for module, names in zip(modules, before, strict=True):
            vars(module).update(names)
