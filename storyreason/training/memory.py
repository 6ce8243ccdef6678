"""Is there room? Looked at before training starts, for running out of memory hours later helps nobody."""

import subprocess

from storyreason.errors import TrainingError

GIB = 2**30


def check(devices: str | None, wanted_gb: float) -> None:
    """Raises TrainingError when one of the devices has less free memory than wanted; without a GPU the machine counts."""
    if not wanted_gb:
        return
    for device, free_gb in free(devices).items():
        if free_gb < wanted_gb:
            raise TrainingError(
                f"{device} has {free_gb:.1f} GiB free, and training.free_memory_gb wants {wanted_gb:g}: end what uses it "
                "(`storyreason down` stops serving, and serving.give_way=true lets it make room for the time), name other "
                "training.devices, or want less."
            )


def suffices(devices: str | None, wanted_gb: float) -> bool:
    """Whether each of the devices has so much free memory."""
    return not wanted_gb or all(free_gb >= wanted_gb for free_gb in free(devices).values())


def free(devices: str | None) -> dict[str, float]:
    """GiB that are free, by device: the GPUs that are named (all: None), or the machine's memory where there is no GPU."""
    select = ["-i", devices] if devices else []
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,memory.free", "--format=csv,noheader,nounits", *select],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        import psutil

        return {"this machine": psutil.virtual_memory().available / GIB}
    rows = (line.split(",") for line in said.splitlines() if line.strip())
    return {f"GPU {index.strip()}": float(mebibytes) / 1024 for index, mebibytes in rows}
