"""What a training computes in: bfloat16 where the machine multiplies it fast, else float32."""

from typing import Literal

Precision = Literal["auto", "bfloat16", "float32"]


def resolve(wanted: Precision) -> Literal["bfloat16", "float32"]:
    """`auto` made definite for this machine. Weights and optimizer are float32 either way; products are autocast."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if is_fast() else "float32"


def is_fast() -> bool:
    """Whether there is a GPU, or a CPU with instructions for products in bfloat16 (else they are slower than float32)."""
    import torch

    if torch.cuda.is_available():
        return True
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
