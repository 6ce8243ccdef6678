"""Work folders: what is complete, who may write, and that nothing is ever half written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storyreason import runs
from storyreason.errors import RunError
from tests.tiny import file_size_limit


def test_fingerprint_names_the_content_not_the_order() -> None:
    one = runs.fingerprint(step="train", data="abc", rate=1e-4)
    assert one == runs.fingerprint(rate=1e-4, data="abc", step="train")
    assert one != runs.fingerprint(step="train", data="abc", rate=2e-4)
    assert len(one) == 16


def test_step_is_complete_only_with_manifest_and_files(tmp_path: Path) -> None:
    assert runs.read_manifest(tmp_path) is None
    (tmp_path / "result").write_text("weights")
    runs.write_manifest(tmp_path, files=("result",), md5="abc")
    manifest = runs.read_manifest(tmp_path)
    assert manifest is not None and manifest["md5"] == "abc"

    (tmp_path / "result").unlink()

    assert runs.read_manifest(tmp_path) is None


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    runs.write_text(target, "old")

    with pytest.raises(TypeError):
        runs.write_bytes(target, "not bytes")  # type: ignore[arg-type]

    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from storyreason import runs\n"
        f"with runs.lock(Path({str(tmp_path)!r})): print('held', flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdin is not None
    assert holder.stdout.readline() == "held\n"

    with pytest.raises(RunError, match=f"process {holder.pid}"), runs.lock(tmp_path, wait=0):
        pass

    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    with runs.lock(tmp_path, wait=5):
        pass


def test_what_processes_use_is_not_free_and_what_is_being_removed_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "version" / ".used"
    with runs.unused(file) as unused:
        assert unused and runs.use(file) is None  # there is nothing yet
    file.parent.mkdir()
    file.touch()
    one, other = runs.use(file), runs.use(file)
    assert one is not None and other is not None
    for user in (one, other):
        with runs.unused(file) as unused:
            assert not unused
        os.close(user)
    with runs.unused(file) as unused:
        assert unused and runs.use(file) is None


def test_runs_can_live_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "elsewhere"))
    assert runs.work_folder("train", "abc") == tmp_path / "elsewhere" / "train" / "abc"


@pytest.mark.parametrize("write", ["torch.save", "safetensors", "text"])
def test_a_full_disk_is_recognized_whatever_library_was_writing(tmp_path: Path, write: str) -> None:
    import safetensors.torch
    import torch

    weights = {"weight": torch.zeros(1000)}
    with file_size_limit(1000), pytest.raises(Exception) as told:
        if write == "torch.save":
            torch.save(weights, tmp_path / "weights.pt")
        elif write == "safetensors":
            safetensors.torch.save_file(weights, tmp_path / "weights.safetensors")
        else:
            runs.write_text(tmp_path / "weights.txt", "0" * 2000)
    assert "full" in str(runs.disk_fault(told.value))
    assert runs.disk_fault(ValueError("no such story")) is None
