from pathlib import Path

import pytest
import torch

from storyreason.training import Job, TrainingConfig, setup


@pytest.fixture
def job(tmp_path: Path) -> Job:
    config = TrainingConfig(dtype="float32", accelerate="1gpu", liger=False)
    return Job(base="b", data=tmp_path, work=tmp_path, training=config)


def test_float32_is_kept_where_the_launcher_was_told_bf16(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as `accelerate launch` does with 1gpu.yaml
    assert setup.arguments(job, cuda=False).mixed_precision == "no"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_one_process_that_sees_four_gpus_takes_one(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    made = setup.arguments(job, cuda=True)
    assert made.n_gpu == 1
    assert made.train_batch_size == job.training.batch_size
