"""What a training run measures: seconds, memory, and how much of the device's arithmetic it uses (MFU)."""

import resource
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import torch

from storyreason import architecture

PEAKS = {
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "H20": 148e12, "L40S": 362e12, "L40": 181e12,
    "A100": 312e12, "A800": 312e12, "A10": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
"""bfloat16 operations per second without sparsity, by a part of the GPU's name (NVIDIA's data sheets)."""


class Cost:
    """The operations that a mode needs for a story, without recomputation, padding and cached features.

    With N weights a token takes 2N operations forward, 2N for the gradient of the input and 2N for that of the weights: 6N
    for trained weights, 4N for frozen ones with adapters before them (Kaplan et al. 2020, section 2.1). Left out: lookups,
    and the states of recurrent layers (under 1 % of Qwen3.5's).
    """

    def __init__(self, base: Any, mode: Literal["lora", "full", "language"]) -> None:
        text = base.config.get_text_config()
        counts: Counter[architecture.Part] = Counter()
        adapters: Counter[architecture.Target | None] = Counter()
        for name, parameter in base.named_parameters():
            counts[kind := architecture.part(name)] += numbers(parameter)
            if kind == "adapters":
                adapters[architecture.target(name)] += parameter.numel()
        of_tower, of_merger = adapters["tower"], adapters["merger"]
        trained = 4 if mode == "lora" else 6
        self.per_token: int = trained * counts["layers"] + 6 * (counts["adapters"] - of_tower - of_merger)
        self.per_label = trained * text.vocab_size * text.hidden_size
        # A frozen tower runs forward only, up to its first adapters; pixels need no gradient. The merger turns four patches
        # into one token.
        tower, merger, first = (
            (6, 6, 4) if mode == "full" else (4 if of_tower else 2, 4 if of_tower or of_merger else 2, 2)
        )
        self.per_image_token = 4 * (tower * counts["tower"] + 6 * of_tower + first * counts["patches"])
        self.per_image_token += merger * counts["merger"] + 6 * of_merger
        # Two products of [tokens, tokens], half of them masked, once forward and twice backward, in all heads and in all
        # layers that attend.
        heads = text.num_attention_heads * (
            getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        )
        self.per_pair = 6 * heads * architecture.attending(base.config)

    def of(self, tokens: int, labels: int, image_tokens: int) -> float:
        """The operations of one story. `image_tokens` are those whose features must be computed."""
        return float(
            self.per_token * tokens
            + self.per_label * labels
            + self.per_image_token * image_tokens
            + self.per_pair * tokens**2
        )


def numbers(parameter: torch.nn.Parameter) -> int:
    """How many numbers a weight holds; in four bits, two in each byte."""
    quantized: Any = getattr(parameter, "quant_state", None)
    return parameter.numel() if quantized is None else int(quantized.shape.numel())


def peak_operations(device: torch.device, bf16: bool) -> float:
    """The operations per second of a device: a known GPU's from its data sheet, else the best of a few products."""
    if device.type == "cuda" and bf16:
        name = torch.cuda.get_device_name(device)
        for part, known in PEAKS.items():
            if part in name:
                return known
    size = 8192 if device.type == "cuda" else 768
    one = torch.ones(size, size, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        float((one @ one)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


class Utilization:
    """The share of a device's arithmetic that is used (MFU), by a measure of the most that the device does per second.

    A step that does more shows that others used the device during the measure: it is taken again, and nothing exceeds 1.
    """

    def __init__(self, measure: Callable[[], float]) -> None:
        self._measure = measure
        self._peak = measure()

    def of(self, operations: float, seconds: float) -> float:
        done = operations / seconds
        if done > self._peak:
            self._peak = max(self._measure(), done)
        return done / self._peak


class Speed:
    """The seconds of each optimizer step, without validations and checkpoints."""

    def __init__(self) -> None:
        self.mean = 0.0
        self._began = time.perf_counter()

    def step(self) -> float:
        seconds = time.perf_counter() - self._began
        self.mean = seconds if not self.mean else 0.9 * self.mean + 0.1 * seconds
        self.pause()
        return seconds

    def pause(self) -> None:
        self._began = time.perf_counter()


def peak_memory() -> int:
    """Peak memory in bytes: the GPU's if there is one, else this process'."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
