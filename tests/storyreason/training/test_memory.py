"""Too little memory is said before training starts."""

from pathlib import Path

import pytest

from storyreason.errors import TrainingError
from storyreason.training import memory


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose `nvidia-smi` answers as the real one does: GPU 0 is nearly full."""
    script = tmp_path / "nvidia-smi"
    script.write_text('#!/bin/sh\ncase "$*" in *"-i 1"*) echo "1, 40960";; *) printf "0, 1024\\n1, 40960\\n";; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_a_full_device_is_named_and_a_free_one_is_taken(two_gpus: None) -> None:
    memory.check("1", 30)
    memory.check(None, 0)
    with pytest.raises(TrainingError, match=r"GPU 0 has 1\.0 GiB free, and training\.free_memory_gb wants 30"):
        memory.check(None, 30)


def test_without_a_gpu_the_machine_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    memory.check(None, 0.001)
    with pytest.raises(TrainingError, match="this machine has"):
        memory.check("0", 1e6)
