"""When a training run validates, writes a checkpoint and ends."""

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from storyreason.training.config import TrainingConfig
from storyreason.training.plan import Plan


class Pace(TrainerCallback):
    """Asks for a validation and a checkpoint at each epoch's end, for a checkpoint every `save_every` steps, and for the
    end."""

    def __init__(
        self,
        plan: Plan,
        config: TrainingConfig,
        *,
        validate: Callable[[], Any] | None,
        stop_wanted: Callable[[], bool],
        report: Callable[..., None],
    ) -> None:
        """`validate` is None when there are no stories to validate on. `report` writes a line: event, then values."""
        self.plan = plan
        self.config = config
        self.validate = validate
        self.stop_wanted = stop_wanted
        self.report = report

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Catch up on what an attempt missed that ended at an epoch's end: its validation, or the early stop."""
        step = state.global_step
        validated = any(line["step"] == step for line in state.log_history)
        if step and self.plan.ends_epoch(step) and self.validate and not validated:
            self.validate()
        if self._gains_no_more(state) or self.plan.last <= step < self.plan.steps:
            raise EnoughError

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        ends_epoch = self.plan.ends_epoch(state.global_step)
        control.should_log = True
        control.should_evaluate = ends_epoch and self.validate is not None
        control.should_save = ends_epoch or state.global_step % self.config.save_every == 0
        if state.global_step == self.plan.last:
            control.should_training_stop = True
        elif self.stop_wanted():
            control.should_evaluate = False
            control.should_save = control.should_training_stop = True

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if waited := self._gains_no_more(state):
            self.report("early_stop", step=state.global_step, best_step=state.best_global_step, epochs=waited)
            control.should_training_stop = True

    def _gains_no_more(self, state: TrainerState) -> int:
        """The epochs since the best one if they suffice for an early stop, else 0."""
        patience, best = self.config.early_stopping, state.best_global_step
        if not patience or best is None or state.global_step >= self.plan.steps:
            return 0
        waited = int(self.plan.epochs_after(state.global_step)) - int(self.plan.epochs_after(best))
        return waited if waited >= patience else 0

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_evaluate = False  # the Trainer's one epoch is the whole plan, and its last step was validated


class HalfStepError(Exception):
    """The run was asked to stop within a step: the step is discarded and repeated after the resume."""


class EnoughError(Exception):
    """There is no step left: the early stop was decided already, or the round is complete."""
