"""Causal attention over a packed row of stories: a loop over them by torch's backends, and one call for all of them."""

import contextlib
import inspect
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu.common import DEVICE, DRY, failure_reported, milliseconds, report, synchronize

Attend = Callable[[list[int], torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From the stories' lengths and query, key and value [1, heads, tokens, size] to [1, tokens, heads, size]."""
HEADS, KEYS, SIZE = (4, 2, 16) if DRY else (28, 4, 128)
TOWER_HEADS, TOWER_SIZE = (2, 16) if DRY else (16, 80)
WINDOWS = ([8, 6] if DRY else [64] * 10 + [16] * 5 + [32] * 2 + [4]) * 8
"""Tokens of the vision tower's windows in a story of 8 frames of 42x18 patches."""


def loop(lengths: list[int], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    parts = [tensor.split(lengths, dim=2) for tensor in (query, key, value)]
    attended = [
        scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).contiguous()
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(attended, dim=1)


def varlen(lengths: list[int], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return in_one_call(lengths, query, key, value)


def in_one_call(
    lengths: list[int], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """torch's attention for sequences of various lengths."""
    from torch.nn.attention import varlen as module

    attend: Any = module.varlen_attn
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    ends, longest = ends.to(query.device, non_blocking=True), max(lengths)
    # Autocast does not know this operation.
    rows = [tensor.transpose(1, 2)[0].to(value.dtype) for tensor in (query, key, value)]
    # Fewer heads of keys than of queries are asked for by name since torch 2.12, and understood before.
    grouped = {"enable_gqa": True} if "enable_gqa" in inspect.signature(attend).parameters else {}
    attended: torch.Tensor = attend(*rows, ends, ends, longest, longest, scale=scale, window_size=(-1, 0), **grouped)
    return attended[None]


WAYS: dict[str, tuple[Attend, Any]] = {
    "loop, torch's choice": (loop, None),
    "loop, cudnn": (loop, SDPBackend.CUDNN_ATTENTION),
    "loop, flash": (loop, SDPBackend.FLASH_ATTENTION),
    **({} if DRY else {"varlen": (varlen, None)}),  # torch has it for GPUs alone
}


def backend(kind: Any) -> Any:
    return contextlib.nullcontext() if kind is None or DRY else sdpa_kernel(kind)


def tensors(tokens: int, heads: int, keys: int, size: int) -> list[torch.Tensor]:
    """Query, key and value [1, heads, tokens, size], laid out as the model's projections leave them."""
    return [
        torch.randn(1, tokens, count, size, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
        for count in (heads, keys, keys)
    ]


def both(attend: Attend, lengths: list[int], given: list[torch.Tensor]) -> tuple[float, float]:
    """Milliseconds of one forward and one backward pass."""
    for tensor in given:
        tensor.grad = None
    synchronize()
    began = time.perf_counter()
    out = attend(lengths, *given)
    synchronize()
    middle = time.perf_counter()
    out.backward(torch.ones_like(out))
    synchronize()
    return (middle - began) * 1e3, (time.perf_counter() - middle) * 1e3


def measure() -> None:
    _measure(WAYS)


def cudnn() -> None:
    """cuDNN alone, by the environment that this process was given."""
    _measure({"loop, cudnn": WAYS["loop, cudnn"]})


def _measure(ways: dict[str, tuple[Attend, Any]]) -> None:
    luck = random.Random(1)
    first, second = ([luck.randint(100, 400) if DRY else luck.randint(3600, 9600) for _ in range(5)] for _ in range(2))
    reference: torch.Tensor | None = None
    for name, (attend, kind) in ways.items():
        with failure_reported(way=name), backend(kind):  # not every torch has every backend
            torch.manual_seed(0)
            given = tensors(sum(first), HEADS, KEYS, SIZE)
            cold = both(attend, first, given)
            warm = min(both(attend, first, given) for _ in range(3))
            out = attend(first, *given).detach().float()
            reference = out if reference is None else reference
            unseen = both(attend, second, tensors(sum(second), HEADS, KEYS, SIZE))
            work = sum(2 * 2 * HEADS * SIZE * length**2 / 2 for length in first)
            report(
                way=name,
                lengths=first,
                first_ms=[round(value, 1) for value in cold],
                again_ms=[round(value, 2) for value in warm],
                new_lengths_ms=[round(value, 1) for value in unseen],
                forward_tflops=work / warm[0] / 1e9,
                backward_tflops=2.5 * work / warm[1] / 1e9,
                differs=float((out - reference).abs().max()),
            )
    given = tensors(sum(WINDOWS), TOWER_HEADS, TOWER_HEADS, TOWER_SIZE)
    for name, (attend, kind) in ways.items():
        with failure_reported(way=name, windows=len(WINDOWS)), backend(kind), torch.no_grad():
            report(windows=len(WINDOWS), way=name, forward_ms=_forward(attend, given))


def _forward(attend: Attend, given: list[torch.Tensor]) -> float:
    return milliseconds(lambda: attend(WINDOWS, *given), 3, 1)
