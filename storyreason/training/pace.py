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
        patience, plan = self.trainer.config.early_stopping, self.trainer.plan
        best = state.best_global_step
        if patience and best is not None:
            waited = int(plan.epochs_after(state.global_step)) - int(plan.epochs_after(best))
            if waited >= patience and state.global_step < plan.steps:
                self.trainer.progress.write("early_stop", step=state.global_step, best_step=best, epochs=waited)
                control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_evaluate = False  # the Trainer's one epoch is the whole plan, and its last step was validated


class HalfStepError(Exception):
    """Told to stop within a step: the step is dropped, and done again after the resume."""
