"""The recipes that `benchmarks/training.py` compares."""

from dataclasses import dataclass, replace
from typing import Literal

from storyreason.training.config import Recompute

Size = Literal["tiny", "7b"]
Mode = Literal["lora", "full", "language"]

PACK = {"tiny": 4096, "7b": 12_288}
"""Tokens of a packed row."""
PER_STEP = {"tiny": 8, "7b": 8}
"""Stories of an optimizer step."""


@dataclass(frozen=True)
class Recipe:
    """The optimizations that a recipe uses."""

    name: str
    pack: bool = False
    features: bool = False
    answer_loss: bool = False
    prepared: bool = False
    recompute: Recompute = "all"
    kernels: bool = True
    """Liger and FlashAttention if they are installed; the published recipe uses them too."""
    offload: bool = False


def recipes(size: str, mode: str) -> list[Recipe]:
    """The published recipe first, then ours, then ours without each of its optimizations."""
    recompute: Recompute = "none" if size == "tiny" else "long" if mode == "lora" else "all"
    ours = Recipe("b", pack=True, features=mode != "full", answer_loss=True, prepared=True, recompute=recompute)
    without = [
        replace(ours, name="b -packing", pack=False),
        replace(ours, name="b -features", features=False),
        replace(ours, name="b -answer loss", answer_loss=False),
        replace(ours, name="b -prepared", prepared=False, features=False),
        replace(ours, name="b +recomputing", recompute="all"),
        replace(ours, name="b -kernels", kernels=False),
    ]
    published = [Recipe("a'")] if size == "tiny" else [Recipe("a", offload=True), Recipe("a'")]
    skipped = {"b -kernels"} if size == "tiny" else set()
    if mode == "full":
        skipped.add("b -features")
    return [*published, ours, *(one for one in without if one.name not in skipped)]
