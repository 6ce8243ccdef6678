"""transformers' Trainer with public names for the private methods that a training replaces or calls."""

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer


class OpenTrainer(Trainer):
    """Subclasses override `write_checkpoint`, `read_checkpoint` and `before_save`, and call the rest."""

    def write_checkpoint(self) -> None:
        """Called when a checkpoint is due."""
        raise NotImplementedError

    def read_checkpoint(self, folder: Path) -> None:
        """Called to load the weights of the checkpoint that a training resumes from."""
        raise NotImplementedError

    def before_save(self, state_dict: dict[str, Any] | None) -> None:
        """Called before the model is saved; `state_dict` is None where it is taken from the model itself."""

    def save_progress(self, folder: Path) -> None:
        """Write optimizer, schedule and random states (with FSDP the weights too) into a checkpoint's folder."""
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))

    def read_shards(self, folder: Path) -> None:
        """Load the weights of a checkpoint as the Trainer does: with FSDP, every process its shard."""
        super()._load_from_checkpoint(str(folder), self.model)

    def save_whole(self, folder: Path) -> None:
        """Save the model, without pushing it to the Hub."""
        self.save_model(str(folder), _internal_call=True)

    def to_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        prepared: dict[str, Any] = self._prepare_inputs(inputs)
        return prepared

    def reduce_gradients(self, wanted: bool) -> None:
        """Whether the next backward pass exchanges gradients with the other processes."""
        self.accelerator.gradient_state._set_sync_gradients(wanted)

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        self.write_checkpoint()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        self.read_checkpoint(Path(resume_from_checkpoint))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self.before_save(state_dict)
        super()._save(output_dir, state_dict)
