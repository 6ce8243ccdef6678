"""What the parts of the GPU benchmark share: where they run, how they time and report."""

import contextlib
import gc
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
DRY = bool(os.environ.get("GPU_BENCHMARK_DRY"))
"""A dry run on a CPU, with tiny sizes."""
DEVICE = "cpu" if DRY else "cuda"
WORK = Path(os.environ.get("GPU_BENCHMARK_WORK", "."))
"""The folder for data, base model and trainings of this run."""


def report(**values: Any) -> None:
    """One line of results. The command that started this part adds the part's name."""
    rounded = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in values.items()}
    sys.stdout.write(json.dumps(rounded) + "\n")
    sys.stdout.flush()


def seconds_left() -> float:
    """Until the budget of the whole benchmark is used up."""
    return float(os.environ.get("GPU_BENCHMARK_DEADLINE", "inf")) - time.time()


@contextlib.contextmanager
def failure_reported(**what: Any) -> Iterator[None]:
    """A failure in the block, such as too little memory, becomes a line of results."""
    try:
        yield
    except Exception as error:
        report(**what, failed=f"{type(error).__name__}: {str(error)[:300]}", peak_gb=peak_gb())


def synchronize() -> None:
    if not DRY:
        torch.cuda.synchronize()


def peak_gb() -> float:
    return 0.0 if DRY else torch.cuda.max_memory_allocated() / 1e9


def free_memory() -> None:
    """Free what is no longer used, and measure the peak from here on."""
    gc.collect()
    if not DRY:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, the device's work included."""
    synchronize()
    began = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - began


def milliseconds(call: Callable[[], Any], times: int = 5, warm: int = 2) -> float:
    """The median of several calls, by the device's own clock."""
    for _ in range(warm):
        call()
    return sorted(_event_milliseconds(call) for _ in range(times))[times // 2]


def _event_milliseconds(call: Callable[[], Any]) -> float:
    if DRY:
        return seconds(call) * 1e3
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def restored(pointer: str, folder: Path) -> Path:
    """The files that a .dvc file names, copied out of the sample store without DVC."""
    if folder.is_dir():
        return folder
    store = ROOT / "deploy" / "sample-store" / "files" / "md5"
    found = re.search(r"md5: (\w+)\.dir", (ROOT / pointer).read_text())
    assert found is not None, pointer
    md5 = found[1]
    for one in json.loads((store / md5[:2] / f"{md5[2:]}.dir").read_text()):
        path = folder / one["relpath"]
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(store / one["md5"][:2] / one["md5"][2:], path)
    return folder
