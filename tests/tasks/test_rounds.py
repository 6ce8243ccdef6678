"""A round asks the model that the training left, in an engine of this process, and says when that teaches nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from storyreason import dataset, training
from storyreason.config import RunConfig
from storyreason.errors import TrainingError
from storyreason.training import process, samples
from tasks import progress, rounds
from tasks.data import Base
from tasks.steps import Work


@pytest.mark.parametrize(
    ("trains", "serves", "held"), [(None, None, None), ("0", None, "0"), ("10,2", "2,3", "2,3,10"), (None, "1", "1")]
)
def test_engine_and_training_hold_the_devices_of_both(trains: str | None, serves: str | None, held: str | None) -> None:
    config = {"training": {"devices": trains}, "serving": {"devices": serves}}
    assert rounds.devices(RunConfig.model_validate(config)) == held


@pytest.mark.server
def test_a_model_that_writes_nothing_readable_is_asked_and_told_what_to_do(
    untrained: Path, examples: list[dataset.Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setattr(progress.Progress, "_show", lambda *_: None)
    dataset.write(examples[:6], tmp_path / "data", "train")
    config = RunConfig.model_validate(
        {
            "training": {"mode": "lora", "rank": 4, "dtype": "float32", "accelerate": "cpu", "learning_rate": 3e-2,
                         "max_steps": 1, "warmup_ratio": 0, "accumulation": 1, "recompute": "none", "max_images": 1},
            "improve": {"method": "grpo", "engine": "inprocess", "rounds": 1, "stories": 2, "answers": 2, "steps": 1},
            "generation": {"max_tokens": 6},
            "serving": {"gateway": "none-of-this-name"},
        }
    )  # fmt: skip
    begun = training.Job(base=str(untrained), data=tmp_path / "data", work=tmp_path / "begun", training=config.training)
    begun.work.mkdir()
    watch: Any = SimpleNamespace(wanted=False, done=SimpleNamespace(set=lambda: None))
    process.train(begun, watch)
    work = Work("improve", "0123456789abcdef")
    more = {"work": work.folder, "improve": config.improve, "start": begun.work / "result"}
    job = begun.model_copy(update=more)

    with disable_run_logger(), pytest.raises(TrainingError, match="Nothing to learn from the answers to 2 stories"):
        rounds.run(config, Base(str(untrained), "base"), job, work, lambda line: None, "a training")

    found = samples.read(samples.folder(work.folder, 0) / samples.FILE)
    assert len(found) == 4 and len({one.story_id for one in found}) == 2
    assert all((one.cut, one.tokens, one.reward, one.advantage) == (True, 6, 0.0, None) for one in found)
    assert len({one.answer for one in found}) > 1  # sampled, and not the same twice
    assert not (work.folder / "model").exists()
