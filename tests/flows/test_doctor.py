"""`storyreason doctor`: what would stop a retraining is found before it begins, with a remedy."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import disk, doctor
from flows.doctor import Finding
from storyreason import config
from storyreason.errors import DataError, EngineError
from tests.tasks.cloned import clone, dvc, origin, pushed, stories  # noqa: F401 (fixtures)

SAMPLE = config.load("sample")


def test_a_clone_with_its_data_in_the_remote_is_fine_and_a_remote_that_lacks_it_is_named(
    clone: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{clone}/mlflow.db")
    (found,) = doctor._data(SAMPLE)
    assert found.state == "ok" and "is in sample" in found.found

    shutil.rmtree(clone / "store")
    told = list(doctor.examine(SAMPLE))
    (data,) = (one for one in told if one.name == "data")
    assert data.state == "fault" and "does not exist: restore it, or name another" in data.found

    for version in ("v1", "v2"):
        (clone / "data").mkdir(exist_ok=True)
        (clone / "data" / f"train-{version}.parquet").write_text(version)
    dvc(clone, "add", "data")
    (found,) = doctor._data(SAMPLE)  # the cache has it: no remote is needed
    assert found.state == "ok" and "is here" in found.found


@pytest.mark.parametrize("cached", [True, False])
def test_the_samples_data_are_a_fault_for_a_preset_of_another_data_set(
    clone: Path,  # noqa: F811
    stories: Path,  # noqa: F811
    cached: bool,
) -> None:
    if not cached:
        shutil.rmtree(clone / "data")
        shutil.rmtree(clone / ".dvc" / "cache")
    with pytest.raises(DataError, match="is for daniel3303/StoryReasoning"):
        list(doctor._data(config.load("qwen2.5-vl-7b-lora")))
    (found,) = doctor._data(SAMPLE)
    assert found.state == "ok"


def test_what_the_steps_after_training_would_refuse_is_found(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"serving\.tensor_parallel=64"):
        list(doctor._later(config.load("sample", ["serving.tensor_parallel=64"])))
    (found,) = doctor._later(SAMPLE)
    assert found.state == "ok"


def test_versions_that_differ_from_the_lock_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storyreason.home.checkout", lambda: tmp_path)
    (tmp_path / "deploy").mkdir()
    for name in ("cpu", "gpu"):
        (tmp_path / "deploy" / f"requirements-{name}.txt").write_text(
            "pydantic==1.0\nno-such-package==3 \\\n    --hash=x\n"
        )
    (found,) = doctor._versions(SAMPLE)
    assert found.state == "warning" and found.remedy == "make install"
    assert "(locked: 1.0)" in found.found and "no-such-package not installed (locked: 3)" in found.found


def test_a_port_in_use_is_named_with_its_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("STORYREASON_MLFLOW_PORT", str(taken.getsockname()[1]))
        (found,) = doctor._ports(config.load("sample", ["serving.port=1"]))
    assert found.state == "warning" and "STORYREASON_MLFLOW_PORT" in found.remedy


def test_a_preset_for_gpus_is_refused_where_there_is_none() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    (found,) = doctor._training(config.load("qwen2.5-vl-7b-lora"))
    assert found.state == "fault" and found.found.startswith("no GPU: ")


def test_a_base_on_the_hub_wants_a_token_and_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = config.load("sample", ["base.name=nobody/nothing"])
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    (found,) = doctor._base(run)
    assert (found.name, found.state) == ("Hub token", "warning") and "HF_TOKEN" in found.remedy
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = doctor._base(run)
    assert found.state == "fault" and "HF_HUB_OFFLINE" in found.remedy


FULL = config.load("qwen2.5-vl-7b-full")
SAYS = [SimpleNamespace(rfilename=f"model-{part}.safetensors", size=8_300_000_000) for part in (1, 2)]


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the GB that are free; the Hub's cache is empty."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: SimpleNamespace(siblings=SAYS))

    def free(gb: float) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=int(gb * 1e9)))

    return free


def test_too_little_disk_is_a_fault(disks: Callable[[float], None]) -> None:
    disks(4.9)
    (found,) = doctor._disk(SAMPLE)
    assert found.state == "fault" and "storyreason clean" in found.remedy
    disks(12)
    (found,) = doctor._disk(SAMPLE)
    assert found.state == "ok" and found.found.startswith("12.0 GB are free at ")


def test_a_base_on_the_hub_wants_room_for_itself_and_for_its_checkpoints(
    disks: Callable[[float], None], tmp_path: Path
) -> None:
    disks(20)
    (found,) = doctor._disk(FULL)
    assert found.state == "fault" and "about 465 are wanted" in found.found  # four checkpoints of 100 GB

    snapshot = tmp_path / "hub/models--Qwen--Qwen2.5-VL-7B-Instruct/snapshots/0123"
    snapshot.mkdir(parents=True)
    (refs := snapshot.parents[1] / "refs").mkdir()
    (refs / "main").write_text("0123")
    (snapshot / "model-1.safetensors").write_bytes(b"w" * 1000)
    index = {
        "metadata": {"total_size": 16_600_000_000},
        "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"},
    }
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert disk.size(FULL) == disk.Base(16_600_000_000, 16_599_999_000)


def test_features_of_pictures_may_fill_what_the_rest_needs(disks: Callable[[float], None]) -> None:
    lora = config.load("qwen2.5-vl-7b-lora")
    disks(100)
    (found,) = doctor._disk(lora)
    assert found.state == "warning" and "up to 100 for features" in found.found
    assert "training.feature_cache_gb" in found.remedy
    disks(150)
    (found,) = doctor._disk(lora)
    assert found.state == "ok"
    disks(30)
    (found,) = doctor._disk(lora)
    assert found.state == "fault" and "about 41 are wanted" in found.found


def test_a_size_that_nobody_says_is_not_said_to_suffice(
    disks: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    disks(1000)
    (found,) = doctor._disk(FULL)
    assert found.state == "warning" and "whether they suffice is not known" in found.found
    assert list(doctor.lines([found]))[-1] == "1 warning: a retraining may stop"


def test_the_last_line_says_whether_a_retraining_would_stop() -> None:
    fault = Finding("disk", "fault", "full", "make room")
    assert list(doctor.lines([fault])) == [
        "fault    disk        full  -> make room",
        "1 fault: a retraining would stop",
    ]
    assert list(doctor.lines([]))[-1] == "nothing would stop a retraining"
