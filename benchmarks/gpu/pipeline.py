"""Whole trainings of the tiny base model on the sample data, as `storyreason retrain` starts them; some are resumed."""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.common import DRY, ROOT, WORK, report, restored, seconds_left
from storyreason import training
from storyreason.training import machine, progress

STOPPED_AT = 3


def one_gpu() -> None:
    """Every mode on one GPU; the adapters also stopped and resumed."""
    _measure(sharded=False)


def fsdp() -> None:
    """Adapters and language model under FSDP2 in one process, each also stopped and resumed."""
    _measure(sharded=True)


def _measure(sharded: bool) -> None:
    name = "fsdp" if sharded else "gpu"
    data, base = restored("data.dvc", WORK / "data"), restored("tiny-base.dvc", WORK / "base")
    file, env = _accelerate(sharded), _environment(sharded)
    for mode in ("lora", "language") if sharded else ("lora", "full", "language"):
        if seconds_left() < 25:
            break
        whole = _trained(_job(f"{name}-{mode}", mode, data, base, file), env)
        if mode == "lora" or sharded:
            job = _job(f"{name}-{mode}-stopped", mode, data, base, file)
            _trained(job, env, stop=STOPPED_AT)
            again = _trained(job, env)
            difference: Any = "other steps"
            if again.keys() == whole.keys():
                difference = max(abs(again[step] - whole[step]) for step in whole)
            report(job=job.work.name, difference_after_resume=difference)


def _accelerate(sharded: bool) -> Path:
    """accelerate's file; FSDP2 in one process is that of two GPUs with one of them."""
    if DRY:
        return machine.config_file("fsdp2-cpu2" if sharded else "cpu")
    if not sharded:
        return machine.config_file("1gpu")
    file = WORK / "fsdp2-1gpu.yaml"
    file.write_text(machine.config_file("fsdp2-2gpu").read_text().replace("num_processes: 2", "num_processes: 1"))
    return file


def _environment(sharded: bool) -> dict[str, str]:
    env = {"OMP_NUM_THREADS": "2"}
    if DRY and sharded:  # accelerate needs help to run FSDP2 on a CPU
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests" / "fsdp_cpu"), os.environ.get("PYTHONPATH", "")])
    return env


def _job(name: str, mode: Any, data: Path, base: Path, file: Path) -> training.Job:
    config = training.TrainingConfig(
        mode=mode,
        dtype="float32" if DRY else "bfloat16",
        accelerate=str(file),
        learning_rate=1e-3,
        batch_size=1,
        accumulation=1 if DRY else 8,
        max_steps=4 if DRY else 12,
        pack_tokens=4096,
        max_tokens=2048,
        save_every=2,
        feature_cache_gb=1,
        recompute="none" if DRY else "all",
        liger=not DRY,
    )
    return training.Job(
        base=str(base),
        data=data,
        stories=6 if DRY else 96,
        work=WORK / name,
        features=WORK / f"features-{file.stem}",
        prepared=WORK / "prepared",
        training=config,
    )


def _trained(job: training.Job, env: Mapping[str, str], stop: int | None = None) -> dict[int, float]:
    """Train, report figures, and give the losses by step; `stop` interrupts after that step."""
    lines: list[dict[str, Any]] = []

    def follow(line: dict[str, Any]) -> None:
        lines.append(line)
        if line["event"] == "step" and line["step"] == stop:
            raise KeyboardInterrupt

    began = time.perf_counter()
    with contextlib.suppress(KeyboardInterrupt):
        training.run(job, follow, env=env)
    steps = [line for line in progress.read(job.work) if line["event"] == "step"]
    start, last = next(line for line in lines if line["event"] == "start"), steps[-1]
    report(
        job=job.work.name,
        seconds=time.perf_counter() - began,
        steps=len(steps),
        stopped_at=stop,
        losses=[round(line["loss"], 5) for line in steps],
        distributed=start["distributed_type"],
        device=start["device"],
        dtype=start["dtype"],
        step_s=last["seconds"],
        tokens_per_s=last["tokens_per_s"],
        peak_gb=last["peak_memory"] / 1e9,
        parts=next((line["parts"] for line in lines if line["event"] == "sharded"), None),
        tower=next((line["tower"] for line in lines if "tower" in line), None),
    )
    return {line["step"]: line["loss"] for line in steps}
