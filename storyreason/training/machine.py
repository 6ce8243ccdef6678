"""Where a training runs: what accelerate's file and the configuration say about it, and what this machine offers.

>>> from storyreason.training.config import TrainingConfig
>>> machine = Machine.of(TrainingConfig(accelerate="fsdp2-8gpu"))
>>> machine.processes, machine.on_cpu, machine.mixed_precision
(8, False, 'bf16')
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

from storyreason import resources
from storyreason.errors import ConfigError, TrainingError
from storyreason.model import multiplies_bfloat16
from storyreason.training.config import Precision, TrainingConfig

CONFIGS = resources.folder("accelerate")
GIB = 2**30
FSDP_SETTINGS = (
    ("fsdp_version", 1, 2, "models are sharded by FSDP2 only"),
    ("fsdp_cpu_ram_efficient_loading", True, False, "processes that load no weights would train zeros"),
    ("fsdp_state_dict_type", "SHARDED_STATE_DICT", "SHARDED_STATE_DICT", "checkpoints are written in shards"),
)
"""Settings of accelerate that a sharded training depends on: key, accelerate's default, the value needed, and why."""


@dataclass(frozen=True)
class Machine:
    """How a training is spread over processes and devices. Whatever depends on that asks this value."""

    accelerate: str | None
    """The configuration's name for accelerate's file; None: CPU processes without a file."""
    file: Path | None
    """accelerate's file. None: one process on the CPU, or several that torchrun starts."""
    processes: int
    """On all machines together."""
    machines: int
    on_cpu: bool
    dtype: Precision
    quantize: str | None
    """How the base is quantized; None: it is not."""
    mixed_precision: str | None
    devices: str | None
    """The GPUs to train on, such as `0,1`; None: all."""
    fsdp: Mapping[str, Any] | None
    """accelerate's `fsdp_config`; None without FSDP."""
    meeting: tuple[str, str] | None
    """Address and port at which several machines meet, where the file names them."""

    @classmethod
    def of(cls, training: TrainingConfig) -> Self:
        """Reads accelerate's file. Raises ConfigError when it is missing or is not one."""
        name, dtype = training.accelerate, training.dtype
        if name is None:
            return cls(
                accelerate=None,
                file=None,
                processes=training.processes,
                machines=1,
                on_cpu=True,
                dtype=dtype,
                quantize=training.quantize,
                mixed_precision=None,
                devices=training.devices,
                fsdp=None,
                meeting=None,
            )
        file = config_file(name)
        found = settings(file)
        sharded = found.get("distributed_type") == "FSDP"
        return cls(
            accelerate=name,
            file=file,
            processes=int(found.get("num_processes", 1)),
            machines=int(found.get("num_machines", 1)),
            on_cpu=bool(found.get("use_cpu", False)),
            dtype=dtype,
            quantize=training.quantize,
            mixed_precision=found.get("mixed_precision"),
            devices=training.devices,
            fsdp=MappingProxyType(found.get("fsdp_config") or {}) if sharded else None,
            meeting=_meeting(found),
        )

    @property
    def local_processes(self) -> int:
        """Processes on each machine."""
        return self.processes // self.machines

    def visible_devices(self) -> dict[str, str]:
        """The environment that shows the training process its GPUs, and none where it trains on the CPU."""
        # The process uses a GPU wherever it sees one, and accelerate's settings for a CPU do not work with that.
        devices = "" if self.on_cpu else self.devices
        return {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}

    def check(self) -> None:
        """Raises TrainingError when GPUs are missing, ConfigError when accelerate's file cannot be used."""
        self._check_gpus()
        if self.fsdp is None:
            return
        if self.quantize:
            raise ConfigError(
                f"training.accelerate={self.accelerate} shards the base, and one in four bits cannot be sharded: set "
                "training.accelerate=1gpu, or leave training.quantize empty."
            )
        for key, default, wanted, why in FSDP_SETTINGS:
            if (found := self.fsdp.get(key, default)) != wanted:
                said = f"says {key}: {json.dumps(found)}" if key in self.fsdp else f"does not say {key}"
                raise ConfigError(
                    f"{self.file} {said}: set {key}: {json.dumps(wanted)} under fsdp_config, because {why}."
                )

    def _check_gpus(self) -> None:
        """Raises TrainingError when a GPU is needed and there is none, or there are fewer than processes."""
        if self.on_cpu and self.dtype != "bfloat16":
            return
        import torch

        if not torch.cuda.is_available():
            wants = f"training.dtype={self.dtype}" + (
                f" with training.accelerate={self.file.stem}" if self.file else ""
            )
            raise TrainingError(
                f"{wants} needs a GPU, and this machine has none (torch {torch.__version__}): use the preset sample, "
                "or set training.dtype=auto and training.accelerate=cpu."
            )
        wanted = 0 if self.on_cpu else self.local_processes
        there = len(self.devices.split(",")) if self.devices else torch.cuda.device_count()
        if there < wanted:
            shown = f"training.devices={self.devices} names" if self.devices else "this machine has"
            raise TrainingError(
                f"training.accelerate={self.accelerate} needs {wanted} GPUs, one for each process on this machine, and "
                f"{shown} {there}: set training.accelerate={_fitting(there)}."
            )


def _meeting(found: Mapping[str, Any]) -> tuple[str, str] | None:
    if "main_process_ip" not in found:
        return None
    return str(found["main_process_ip"]), str(found.get("main_process_port", 29500))


def step_settings(training: TrainingConfig) -> dict[str, Any]:
    """What decides the weights besides `job.deciding`: the stories of a step, over all processes, and the precision.

    The rest may change between two attempts of a training: 2 processes with `accumulation` 8 resume as 4 with 4.
    """
    machine = Machine.of(training)
    return {
        "stories_per_step": training.batch_size * training.accumulation * machine.processes,
        "mixed_precision": machine.mixed_precision,
    }


def config_file(name: str) -> Path:
    """A file of `CONFIGS` by its name, or a path. Raises ConfigError when there is no such file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
        raise ConfigError(f"training.accelerate = {name!r} is not a file: use one of {known}, or a path.")
    return path


def settings(path: Path) -> Mapping[str, Any]:
    """What accelerate's file says. It is read once, and again only after a change."""
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: Path, changed: int) -> Mapping[str, Any]:
    import yaml

    read = yaml.safe_load(path.read_text())
    if not isinstance(read, dict):
        raise ConfigError(
            f"training.accelerate: {path} does not hold accelerate's settings: create it with `accelerate config`."
        )
    return MappingProxyType(read)


def _fitting(gpus: int) -> str:
    """The file of `CONFIGS` that uses the most GPUs, up to this number."""
    taken = {
        path.stem: found["num_processes"]
        for path in sorted(CONFIGS.glob("*.yaml"), key=lambda path: path.stem)
        if not (found := settings(path))["use_cpu"] and found["num_machines"] == 1 and found["num_processes"] <= gpus
    }
    return max(taken, key=taken.__getitem__)


def resolve_dtype(wanted: Precision) -> Literal["bfloat16", "float32"]:
    """`auto` resolved for this machine. Weights and optimizer are float32 either way; products are autocast."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if multiplies_bfloat16() else "float32"


def check_memory(devices: str | None, wanted_gb: float) -> None:
    """Raises TrainingError when a device has less free memory than wanted; without a GPU, when the machine has."""
    if not wanted_gb:
        return
    for device, free_gb in free_memory(devices).items():
        if free_gb < wanted_gb:
            raise TrainingError(
                f"{device} has {free_gb:.1f} GiB free, and training.free_memory_gb wants {wanted_gb:g}: end what uses it "
                "(`storyreason down` stops serving; serving.give_way=true suspends it during the training), name other "
                "training.devices, or lower training.free_memory_gb."
            )


def has_memory(devices: str | None, wanted_gb: float) -> bool:
    """Whether each of the devices has this much free memory."""
    return not wanted_gb or all(free_gb >= wanted_gb for free_gb in free_memory(devices).values())


def free_memory(devices: str | None) -> dict[str, float]:
    """Free GiB by device: the named GPUs (None: all that this process may use), or the machine's memory where there is no GPU."""
    found = _of_gpus("memory.free", devices)
    if found is None:
        import psutil

        return {"this machine": psutil.virtual_memory().available / GIB}
    return {f"GPU {index}": mebibytes / 1024 for index, mebibytes in found.items()}


def total_memory(devices: str | None) -> list[float]:
    """The bytes of each of the named GPUs (None: all that this process may use); empty where there is none."""
    return [mebibytes * 2**20 for mebibytes in (_of_gpus("memory.total", devices) or {}).values()]


def _of_gpus(what: str, devices: str | None) -> dict[str, float] | None:
    """A number of each GPU, by its index; None where there is no GPU."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")  # as Slurm sets it; nvidia-smi shows every GPU all the same
    shown = devices or (given if re.fullmatch(r"(\d+|GPU-[\w-]+)(,(\d+|GPU-[\w-]+))*", given) else "")
    select = ["-i", shown] if shown else []
    try:
        said = subprocess.run(
            ["nvidia-smi", f"--query-gpu=index,{what}", "--format=csv,noheader,nounits", *select],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    rows = (line.split(",") for line in said.splitlines() if line.strip())
    return {index.strip(): float(number) for index, number in rows}
