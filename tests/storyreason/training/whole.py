"""What tests of whole trainings share: settings, a follower, and access to what a training left."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from storyreason import training
from storyreason.training import progress
from tests import frozen

FULL = {
    "mode": "full", "dtype": "float32", "accelerate": None, "learning_rate": 3e-3, "batch_size": 2, "accumulation": 2,
    "epochs": 2, "recompute": "none", "save_every": 2,
}  # fmt: skip
FSDP = {"accelerate": "fsdp2-cpu2", "batch_size": 1}
PACKED = {"pack_tokens": 4096}
"""Rows of two stories: two rows for the four of a step."""
LORA = {"mode": "lora", "rank": 4, "learning_rate": 3e-2, "recompute": "selective"}
PATCH = {
    "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parents[2] / "fsdp_cpu", Path(__file__).parents[3]))),
    "OMP_NUM_THREADS": "1",
}
"""What accelerate needs for FSDP on a CPU, and the training itself, of this checkout."""

MakeJob = Callable[..., training.Job]
"""A job with this name; keywords override `FULL`."""


class Lines(list[dict[str, Any]]):
    """The lines that a follower received; `stop_at` makes it raise there, as a cancelled flow does (a BaseException)."""

    def __init__(self, stop_at: tuple[str, int] | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at

    def __call__(self, line: dict[str, Any]) -> None:
        assert not frozen.deviations(line), line
        self.append(line)
        if (line["event"], line["step"]) == self.stop_at:
            raise KeyboardInterrupt

    def steps(self) -> list[int]:
        return [line["step"] for line in self if line["event"] == "step"]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self if line["event"] == event]


def losses(job: training.Job) -> dict[int, float]:
    lines = progress.read(job.work)
    assert not [line for line in lines if frozen.deviations(line)]
    return {line["step"]: line["loss"] for line in lines if line["event"] == "step"}


def left_running(job: training.Job) -> list[int]:
    """Processes that name the job's folder."""
    found = []
    for one in psutil.process_iter():
        try:
            if str(job.work) in " ".join(one.cmdline()) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def weights(result: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found = {name: tensor for path in sorted(result.glob("*.safetensors")) for name, tensor in load_file(path).items()}
    assert found
    return found


def files(result: Path) -> dict[str, bytes]:
    """Every file of a result by its name."""
    return {str(path.relative_to(result)): path.read_bytes() for path in sorted(result.rglob("*")) if path.is_file()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(bool((tensor == other[name]).all()) for name, tensor in one.items())
