"""Checkpoints of a work folder, `checkpoint-<step>/`, and its `result/`: complete because they were renamed into place."""

import hashlib
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState

from storyreason import model, runs
from storyreason.compat.trainer import OpenTrainer
from storyreason.errors import TrainingError
from storyreason.training import sharding
from storyreason.training.examples import StoryDataset
from storyreason.training.job import Job

PREFIX = "checkpoint-"
IDENTITY = "identity.json"
RESULT = "result"
WEIGHTS = "trained.safetensors"
STATE = "trainer_state.json"
"""transformers' name for the file in which a checkpoint keeps its step, the best step and the validations until then."""
KEPT = 2
"""How many of the newest stay, besides the best one on the validation films."""


def path(work: Path, step: int) -> Path:
    """The folder of the checkpoint taken after this many steps."""
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
    """Remove what an attempt left when it died while writing; with `whole`, complete checkpoints too."""
    for folder in (*work.glob(f".{PREFIX}*"), *(work.glob(f"{PREFIX}*") if whole else ())):
        shutil.rmtree(folder)


def rotate(work: Path, best: int | None) -> None:
    """Remove all but the newest `KEPT` and the best."""
    for step in steps(work)[:-KEPT]:
        if step != best:
            shutil.rmtree(path(work, step))


def identity(job: Job, stories: StoryDataset, base: Any, per_step: int, sharded: bool) -> dict[str, Any]:
    """What a checkpoint belongs to: the job, its stories, how many of them a step takes, and the initial weights.

    The number of processes may change at a resume; whether checkpoints are `sharded` (FSDP) may not.
    """
    weights = hashlib.sha256()
    for name, parameter in base.named_parameters():
        # The first few of each suffice: any training changes them. In bfloat16, whatever dtype they were loaded in.
        first = parameter.detach().flatten()[:8].bfloat16().float().cpu()
        weights.update(f"{name} {tuple(parameter.shape)} ".encode() + first.numpy().tobytes())
    return {
        **job.identity(),
        "stories_per_step": per_step,
        "sharded": sharded,
        "stories_hash": stories.digest(),
        "weights_hash": weights.hexdigest()[:16],
    }


def to_resume(work: Path, identity: Mapping[str, Any], afresh: bool = False) -> int | None:
    """The step of the checkpoint to resume from, or None when there is none.

    One that belongs to another run (its `identity.json` differs) raises TrainingError, or is ignored with `afresh`.
    """
    step = newest(work)
    if step is None:
        return None
    if (torn := _torn(path(work, step))) is not None:
        before = [one for one in steps(work) if one < step]
        rest = f"resumes from the one of step {before[-1]}" if before else "starts over"
        raise TrainingError(
            f"The disk lost a part of {torn}: remove the checkpoint {path(work, step)} and run again. Training then {rest}."
        )
    found = json.loads((path(work, step) / IDENTITY).read_text())
    other = [key for key in {**identity, **found} if found.get(key) != identity.get(key)]
    if not other:
        return step
    if afresh:
        return None
    way = f"set training.afresh=true to remove it and start over, or remove {work}."
    if other == ["stories_per_step"] and (per_step := found.get("stories_per_step")):
        way = (
            f"to resume, set training.accumulation so that batch_size x accumulation x processes = {per_step}; or {way}"
        )
    raise TrainingError(f"{path(work, step)} is a checkpoint of another run (other {', '.join(other)}): {way}")


def _torn(checkpoint: Path) -> Path | None:
    """A file of a checkpoint whose end is missing, as after a power failure; None if all are whole. Reads only their ends."""
    for file in sorted(checkpoint.iterdir()):
        try:
            if file.suffix == ".json":
                json.loads(file.read_text())
            elif file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
            elif file.suffix in (".pt", ".pth"):
                zipfile.ZipFile(file).close()
        except (ValueError, SafetensorError, zipfile.BadZipFile):
            return file
    return None


class CheckpointKeeper(TrainerCallback):
    """Writes and reads the checkpoints of a trainer, and its result."""

    def __init__(
        self, trainer: OpenTrainer, job: Job, identity: Mapping[str, Any], on_saved: Callable[[int, str], None]
    ) -> None:
        """`on_saved` gets the step and the folder name of every checkpoint."""
        self.trainer = trainer
        self.job = job
        self.identity = identity
        self.on_saved = on_saved
        self._random_state: dict[str, Any] = {}

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._random_state = _random_state()

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The checkpoint of this step records its validation."""
        folder = path(self.job.work, state.global_step)
        if self.trainer.is_world_process_zero() and folder.is_dir():
            beside = folder / f".{STATE}"
            state.save_to_json(str(beside))
            beside.rename(folder / STATE)

    def begin(self) -> int | None:
        """The step of the checkpoint to resume from; what earlier attempts left unfinished is removed."""
        resumed = to_resume(self.job.work, self.identity, self.job.training.afresh)
        self.trainer.accelerator.wait_for_everyone()  # every process has looked before anything is removed
        if self.trainer.is_world_process_zero():
            clear(self.job.work, whole=resumed is None)
        return resumed

    def write(self) -> None:
        """Write model, optimizer, schedule, random states and position to a temporary folder, then rename it.

        All processes take part. Raises TrainingError when it cannot be written; the previous checkpoint stays.
        """
        trainer, work, step = self.trainer, self.job.work, self.trainer.state.global_step
        final, beside = path(work, step), temporary(work, step)
        if final.exists():
            return
        first = trainer.is_world_process_zero()
        try:
            if not trainer.is_fsdp_enabled and first:  # FSDP's weights come with its optimizer
                beside.mkdir(exist_ok=True)
                save_file(self._trained(), beside / WEIGHTS)
            trainer.save_progress(beside)
            trainer.accelerator.wait_for_everyone()
            if first:
                trainer.state.save_to_json(str(beside / STATE))
                runs.write_text(beside / IDENTITY, json.dumps(self.identity) + "\n")
                beside.rename(final)
                rotate(work, trainer.state.best_global_step)
        except Exception as error:  # for a full disk OSError, torch's RuntimeError or an error of safetensors
            shutil.rmtree(beside, ignore_errors=True)
            kept, words = newest(work), " ".join(str(error).split())[:200]
            what = f"he checkpoint of step {step} could not be written to {work} ({words})."
            disk = runs.disk_fault(error)
            raise TrainingError(
                (f"{disk}: t{what} " if disk else f"T{what} ")
                + (f"The one of step {kept} stays. " if kept else "")
                + "Make room (or fix what is named) and run again: training resumes there."
            ) from error
        trainer.accelerator.wait_for_everyone()
        self.on_saved(step, final.name)

    def read(self, checkpoint: Path) -> None:
        """Load the trained weights. (The Trainer itself loads nothing when stored names are older than the model's.)

        Raises TrainingError when the checkpoint does not hold exactly the trained weights.
        """
        if self.trainer.is_fsdp_enabled:
            sharding.check(checkpoint, self.trainer.model)
            self.trainer.read_shards(checkpoint)
            return
        trained, stored = self._trained(), load_file(checkpoint / WEIGHTS)
        if trained.keys() != stored.keys():
            raise TrainingError(f"{checkpoint} holds weights that this model does not train: remove it.")
        for name, parameter in trained.items():
            parameter.copy_(stored[name])

    def drop_half_step(self) -> None:
        """Discard an unfinished step, and leave a checkpoint of the last complete one."""
        _restore(self._random_state)
        self.trainer.model_wrapped.zero_grad()
        if self.trainer.state.global_step > 0:
            self.trainer.write_checkpoint()

    def write_result(self) -> None:
        """Write the best weights on the validation films (without such films, the last ones) to `result/`."""
        trainer, work, best = self.trainer, self.job.work, self.trainer.state.best_global_step
        if best and best != trainer.state.global_step and path(work, best).is_dir():
            self.read(path(work, best))
        if trainer.is_fsdp_enabled:
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        beside, final = work / f".{RESULT}", work / RESULT
        if trainer.is_world_process_zero():
            shutil.rmtree(beside, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        trainer.save_whole(beside)
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            (beside / "training_args.bin").unlink(missing_ok=True)
            model.write_prompt(beside, self.job.training.images_first, self.job.training.boxes)
            if not _holds_weights(beside):
                raise TrainingError(
                    f"{beside} was written without any weights: this mode does not work in this setup, see log.txt."
                )
            shutil.rmtree(final, ignore_errors=True)
            beside.rename(final)

    def _trained(self) -> dict[str, torch.Tensor]:
        parameters = self.trainer.accelerator.unwrap_model(self.trainer.model).named_parameters()
        return {name: parameter.detach().contiguous() for name, parameter in parameters if parameter.requires_grad}


def _random_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _restore(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])


def _holds_weights(folder: Path) -> bool:
    """Whether any of a folder's safetensors files holds a tensor; PEFT may write an empty one without an error."""

    def filled(file: Path) -> bool:
        with safe_open(file, framework="pt") as opened:
            return len(opened.keys()) > 0

    return any(filled(file) for file in folder.glob("*.safetensors"))
