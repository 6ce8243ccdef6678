"""Checkpoints of a work folder: `checkpoint-<step>/`, complete because it was renamed into place."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storyreason.errors import TrainingError
from storyreason.training.examples import StoryDataset
from storyreason.training.job import Job

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


def clear(work: Path, whole: bool = False) -> None:
    """Remove what an attempt left that died while it wrote; `whole` checkpoints too."""
    for folder in (*work.glob(f".{PREFIX}*"), *(work.glob(f"{PREFIX}*") if whole else ())):
        shutil.rmtree(folder)


def rotate(work: Path, best: int | None) -> None:
    """Remove all but the newest `KEPT` and the best."""
    for step in steps(work)[:-KEPT]:
        if step != best:
            shutil.rmtree(path(work, step))


def identity(job: Job, stories: StoryDataset, base: Any, per_step: int, sharded: bool) -> dict[str, Any]:
    """What a checkpoint belongs to: the job, its stories, how many of them a step takes, and the weights it begins with.

    A step's stories may be spread over other processes after a resume; what it writes is `sharded` with FSDP or not.
    """
    seen = hashlib.sha256(stories.prepared.digests[stories.rows].tobytes())  # IDs, pictures, frames' tokens, answers
    weights = hashlib.sha256()
    for name, parameter in base.named_parameters():
        # The first few of each will do: any training changes those. In bfloat16, whatever they were loaded in.
        first = parameter.detach().flatten()[:8].bfloat16().float().cpu()
        weights.update(f"{name} {tuple(parameter.shape)} ".encode() + first.numpy().tobytes())
    return {
        **job.identity(),
        "stories_per_step": per_step,
        "sharded": sharded,
        "stories_hash": seen.hexdigest()[:16],
        "weights_hash": weights.hexdigest()[:16],
    }


def to_resume(work: Path, identity: Mapping[str, Any], afresh: bool = False) -> int | None:
    """The step of the checkpoint to go on from, or None where there is none.

    One that belongs to another run (its `identity.json` differs) raises TrainingError, or is passed over when `afresh`.
    """
    step = newest(work)
    if step is None:
        return None
    found = json.loads((path(work, step) / IDENTITY).read_text())
    other = [key for key in {**identity, **found} if found.get(key) != identity.get(key)]
    if not other:
        return step
    if afresh:
        return None
    way = f"set training.afresh=true to remove it and start afresh, or remove {work}."
    if other == ["stories_per_step"] and (per_step := found.get("stories_per_step")):
        way = (
            f"to go on, set training.accumulation so that batch_size x accumulation x processes = {per_step}; or {way}"
        )
    raise TrainingError(f"{path(work, step)} is a checkpoint of another run (other {', '.join(other)}): {way}")
