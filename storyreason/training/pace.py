"""When a training run validates, writes a checkpoint and ends."""

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from storyreason.training import sharding

if TYPE_CHECKING:
    from storyreason.training.trainer import StoryTrainer


class Pace(TrainerCallback):
    """Asks for a validation and a checkpoint at each epoch's end, for a checkpoint every so often, and for the end."""

    def __init__(self, trainer: "StoryTrainer") -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer.is_fsdp_enabled:
            parts = sharding.parts(self.trainer.model)
            self.trainer.progress.write("sharded", step=state.global_step, parts=parts)
        self._make_up(state)

    def _make_up(self, state: TrainerState) -> None:
        """What an attempt left out that was stopped or killed at an epoch's end: its validation, or the early stop."""
        trainer, step = self.trainer, state.global_step
        validated = any(line["step"] == step for line in state.log_history)
        if step and trainer.plan.ends_epoch(step) and len(trainer.validation) and not validated:
            trainer.evaluate()
        if self._gains_no_more(state):
            raise EnoughError

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.remember_random_state()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = self.trainer
        ends_epoch = trainer.plan.ends_epoch(state.global_step)
        control.should_log = True
        control.should_evaluate = ends_epoch and len(trainer.validation) > 0
        control.should_save = ends_epoch or state.global_step % trainer.config.save_every == 0
        if state.global_step < trainer.plan.steps and trainer.stop_wanted():
            control.should_evaluate = False
            control.should_save = control.should_training_stop = True

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if waited := self._gains_no_more(state):
            best = state.best_global_step
            self.trainer.progress.write("early_stop", step=state.global_step, best_step=best, epochs=waited)
            control.should_training_stop = True

    def _gains_no_more(self, state: TrainerState) -> int:
        """The epochs since the best one where they are enough for an early stop, else 0."""
        patience, plan, best = self.trainer.config.early_stopping, self.trainer.plan, state.best_global_step
        if not patience or best is None or state.global_step >= plan.steps:
            return 0
        waited = int(plan.epochs_after(state.global_step)) - int(plan.epochs_after(best))
        return waited if waited >= patience else 0

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_evaluate = False  # the Trainer's one epoch is the whole plan, and its last step was validated


class HalfStepError(Exception):
    """Told to stop within a step: the step is dropped, and done again after the resume."""


class EnoughError(Exception):
    """The early stop was decided already: there is no step to do."""
