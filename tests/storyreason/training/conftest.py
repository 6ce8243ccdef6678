from pathlib import Path
from typing import Any

import pytest

from storyreason import training
from tests.storyreason.training.whole import FULL, MakeJob


@pytest.fixture
def make_job(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> MakeJob:
    def make(name: str, improve: training.ImproveConfig | None = None, **config: Any) -> training.Job:
        chosen = training.TrainingConfig(**{**FULL, **config})
        return training.Job(base=str(tiny_base), data=tiny_data, work=tmp_path / name, training=chosen, improve=improve)

    return make
