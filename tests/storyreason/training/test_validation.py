"""The loss on the validation films: what is recorded, and what is left when validation is interrupted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from storyreason import chat, dataset, model
from storyreason.training import checkpoints, process, progress, setup
from storyreason.training.trainer import StoryTrainer
from tests.storyreason.training.whole import MakeJob


@dataclass
class Asked:
    """A watch that asks to stop after it was read this many times."""

    looks: float

    @property
    def wanted(self) -> bool:
        self.looks -= 1
        return self.looks < 0


MakeTrainer = Callable[[float], StoryTrainer]


@pytest.fixture
def make_trainer(make_job: MakeJob) -> MakeTrainer:
    """A trainer after the four steps of its first epoch, which is asked to stop after reading its watch this many times."""

    def make(looks: float) -> StoryTrainer:
        job = make_job("validated", batch_size=1, accumulation=4)
        job.work.mkdir()
        encoder = chat.Encoder(model.load_processor(job.base), images_first=False)
        stories, validation, schedule = process.scheduled(dataset.load(job.data, "train"), job, encoder, processes=1)
        assert len(validation) == 2
        settings, base = setup.arguments(job, cuda=False), setup.load_model(job, cuda=False)
        watch: Any = Asked(looks)
        made = StoryTrainer(job, settings, base, schedule, stories, validation, watch, encoder.processor)
        made.create_optimizer_and_scheduler(schedule.steps)
        made.state.global_step = 4
        made.control.should_save = True
        return made

    return make


def test_a_checkpoint_is_written_before_the_validation(make_trainer: MakeTrainer) -> None:
    # Given a training that is asked to stop after the first of two validation stories
    trainer = make_trainer(1)
    # When an epoch ends
    assert trainer.evaluate() == {}
    # Then it ends, its checkpoint is there, and nothing says that the epoch was validated
    assert trainer.control.should_training_stop
    assert checkpoints.steps(trainer.job.work) == [4]
    assert (trainer.state.best_metric, trainer.state.log_history) == (None, [])
    assert [line["event"] for line in progress.read(trainer.job.work)] == ["checkpoint"]


def test_a_checkpoint_records_its_validation(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(float("inf"))
    loss = trainer.evaluate()["eval_loss"]
    assert [line["event"] for line in progress.read(trainer.job.work)] == ["checkpoint", "validation"]
    kept = type(trainer.state).load_from_json(str(checkpoints.path(trainer.job.work, 4) / "trainer_state.json"))
    assert (kept.best_metric, kept.best_global_step) == (loss, 4)
    assert kept.log_history == [{"step": 4, "eval_loss": loss}]


def test_no_key_value_cache_is_kept_in_validation(make_trainer: MakeTrainer) -> None:
    trainer, kept = make_trainer(float("inf")), list[Any]()
    assert trainer.model is not None
    trainer.model.register_forward_hook(lambda module, given, output: kept.append(output.past_key_values))
    trainer.evaluate()
    assert kept == [None, None]


def test_a_loss_that_is_not_finite_is_not_the_best(make_trainer: MakeTrainer) -> None:
    # Given weights that are corrupt at the first validation
    trainer = make_trainer(float("inf"))
    model: Any = trainer.model
    weight: torch.Tensor = model.lm_head.weight.data
    good = weight.clone()
    weight.fill_(torch.nan)
    trainer.evaluate()
    assert trainer.state.best_metric is None
    # When they are good later, they are the best
    weight.copy_(good)
    trainer.state.global_step = 7
    loss = trainer.evaluate()["eval_loss"]
    assert [trainer.state.best_metric, trainer.state.best_global_step] == [loss, 7]
