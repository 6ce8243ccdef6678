"""What the machine has, and how fast it multiplies and copies."""

import contextlib
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu.common import DRY, milliseconds, report

PACKAGES = (
    "torch", "triton", "transformers", "accelerate", "peft", "liger-kernel", "flash-attn", "tokenizers", "numpy",
    "huggingface-hub", "safetensors", "pydantic", "pyarrow", "pillow", "datasets", "torchvision",
)  # fmt: skip
SHAPES = {
    "8192^3": (8192, 8192, 8192),
    "gate 16k": (16384, 3584, 18944),
    "down 16k": (16384, 18944, 3584),
    "qkv 16k": (16384, 3584, 4608),
    "head 1k": (1024, 3584, 152064),
}
"""Products of the 7B model: [rows, inner] x [inner, columns]."""
QUERY = "--query-gpu=name,driver_version,memory.total,clocks.sm,power.limit"


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def measure() -> None:
    """Versions, the GPU, bfloat16 TFLOP/s, and the bandwidths of its memory and of the way to it."""
    versions = {package.replace("-", "_"): installed(package) for package in PACKAGES}
    report(python=sys.version.split()[0], cores=len(os.sched_getaffinity(0)), **versions)
    if DRY:
        report(gpu=None)
        return
    with contextlib.suppress(OSError):
        said = subprocess.run(["nvidia-smi", QUERY, "--format=csv,noheader"], capture_output=True, text=True).stdout
        report(
            gpu=said.strip(),
            capability=torch.cuda.get_device_capability(),
            cudnn=torch.backends.cudnn.version(),
            cuda=torch.version.cuda,
        )
    report(bf16_tflops={name: round(tflops(*shape)) for name, shape in SHAPES.items()})
    source = torch.empty(2**30, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    report(copy_tb_s=2 * 2**30 / milliseconds(lambda: target.copy_(source), 10) / 1e9)
    pinned = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
    milliseconds_to_device = milliseconds(lambda: source[: 2**28].copy_(pinned, non_blocking=True))
    report(host_to_device_gb_s=2**28 / milliseconds_to_device / 1e6)


def tflops(rows: int, inner: int, columns: int) -> float:
    """bfloat16 TFLOP/s of one product."""
    left = torch.randn(rows, inner, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(columns, inner, device="cuda", dtype=torch.bfloat16)
    return 2 * rows * inner * columns / milliseconds(lambda: torch.nn.functional.linear(left, weight), 10) / 1e9
