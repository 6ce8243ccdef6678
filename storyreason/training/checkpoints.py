"""Checkpoints of a work folder: `checkpoint-<step>/`, complete because it was renamed into place."""

import json
import shutil
from pathlib import Path
from typing import Any

PREFIX = "checkpoint-"
IDENTITY = "identity.json"
KEPT = 2
"""So many newest ones stay, and the best one on the validation films."""


def path(work: Path, step: int) -> Path:
    """The folder of the checkpoint that was taken after so many steps."""
    return work / f"{PREFIX}{step}"


def temporary(work: Path, step: int) -> Path:
    """The folder in which that checkpoint is written before it counts."""
    return work / f".{PREFIX}{step}"


def steps(work: Path) -> list[int]:
    """The steps of all complete checkpoints, oldest first."""
    return sorted(int(folder.name.removeprefix(PREFIX)) for folder in work.glob(f"{PREFIX}*"))


def newest(work: Path) -> int | None:
    """The step of the newest complete checkpoint, or None."""
    return max(steps(work), default=None)


def clear(work: Path) -> None:
    """Remove what an attempt left that died while it wrote."""
    for folder in work.glob(f".{PREFIX}*"):
        shutil.rmtree(folder)


def rotate(work: Path, best: int | None) -> None:
    """Remove all but the newest `KEPT` and the best."""
    for step in steps(work)[:-KEPT]:
        if step != best:
            shutil.rmtree(path(work, step))


def identity(work: Path, step: int) -> dict[str, Any]:
    """What a checkpoint belongs to (`Job.identity` at the time)."""
    found: dict[str, Any] = json.loads((path(work, step) / IDENTITY).read_text())
    return found
