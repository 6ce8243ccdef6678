"""Where a training runs: accelerate's file is read once; missing GPUs and memory are reported before anything starts."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from storyreason.errors import ConfigError, TrainingError
from storyreason.training import Job, TrainingConfig, launch, machine


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"accelerate": None}, (1, 1, True, None, False)),
        ({"accelerate": None, "processes": 3}, (3, 3, True, None, False)),
        ({"accelerate": "cpu", "processes": 3}, (1, 1, True, "no", False)),
        ({"accelerate": "1gpu"}, (1, 1, False, "bf16", False)),
        ({"accelerate": "fsdp2-2nodes"}, (16, 8, False, "bf16", True)),
    ],
)
def test_a_machine_is_what_the_configuration_and_accelerates_file_say(
    training: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    found = machine.Machine.of(TrainingConfig(**training))
    fsdp = found.fsdp is not None
    assert (found.processes, found.local_processes, found.on_cpu, found.mixed_precision, fsdp) == expected


def test_a_run_reads_accelerates_file_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a user's own file
    file = tmp_path / "mine.yaml"
    file.write_text((machine.CONFIGS / "cpu.yaml").read_text())
    config = TrainingConfig(dtype="float32", accelerate=str(file))
    reads: list[object] = []
    load = yaml.safe_load

    def counted(text: str) -> object:
        reads.append(text)
        return load(text)

    monkeypatch.setattr(yaml, "safe_load", counted)
    # When a flow checks it, computes the fingerprint, and starts the training
    launch.check_machine(config)
    assert machine.step_settings(config) == {"stories_per_step": 32, "mixed_precision": "no"}
    monkeypatch.setattr(launch, "_command", lambda *_: [sys.executable, "-c", ""])
    launch.run(Job(base="b", data=tmp_path, work=tmp_path / "work", training=config), print)
    # Then it was read once
    assert len(reads) == 1
    file.write_text(file.read_text().replace('"no"', "bf16"))
    assert machine.step_settings(config)["mixed_precision"] == "bf16"


@pytest.mark.parametrize(
    ("training", "gpus", "said"),
    [
        ({"accelerate": "fsdp2-2gpu"}, 1, r"needs 2 GPUs, .*this machine has 1: set training\.accelerate=1gpu\."),
        (
            {"accelerate": "fsdp2-8gpu"},
            6,
            r"needs 8 GPUs, .*this machine has 6: set training\.accelerate=fsdp2-2gpu\.",
        ),
        (
            {"accelerate": "fsdp2-2gpu", "devices": "3"},
            8,
            r"needs 2 GPUs, .*training\.devices=3 names 1: set training\.accelerate=1gpu\.",
        ),
        ({"accelerate": "fsdp2-2gpu", "devices": "0,3"}, 8, None),
        ({"accelerate": "fsdp2-8gpu"}, 8, None),
        ({"accelerate": "1gpu"}, 4, None),
        ({"accelerate": "fsdp2-cpu2", "dtype": "float32"}, 1, None),
    ],
)
def test_fewer_gpus_than_processes_are_refused_with_a_file_that_fits(
    training: dict[str, Any], gpus: int, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if said is None:
        machine.Machine.of(TrainingConfig(**training)).check()
        return
    with pytest.raises(TrainingError, match=said):
        machine.Machine.of(TrainingConfig(**training)).check()


def test_an_unknown_accelerate_file_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'nope' is not a file: use one of 1gpu, cpu, fsdp2-2gpu"):
        machine.Machine.of(TrainingConfig(dtype="float32", accelerate="nope"))


@pytest.mark.parametrize("file", sorted(machine.CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_accelerate_config_is_one(file: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    assert config.num_processes >= 1
    if "fsdp" in file.stem:
        assert config.fsdp_config["fsdp_version"] == 2
        # Nothing is offloaded unless the name says so
        assert config.fsdp_config["fsdp_offload_params"] == ("offload" in file.stem)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("fsdp_cpu_ram_efficient_loading", True, r"says fsdp_cpu_ram_efficient_loading: true: set .*: false under"),
        ("fsdp_cpu_ram_efficient_loading", None, r"does not say fsdp_cpu_ram_efficient_loading: set .*: false under"),
        ("fsdp_version", 1, r"says fsdp_version: 1: set fsdp_version: 2 under"),
        ("fsdp_version", None, r"does not say fsdp_version: set fsdp_version: 2 under"),
        ("fsdp_state_dict_type", "FULL_STATE_DICT", r"says fsdp_state_dict_type: .*: set .*SHARDED_STATE_DICT"),
        ("fsdp_state_dict_type", None, None),
    ],
)
def test_a_users_own_file_is_refused_when_it_shards_differently(
    tmp_path: Path, key: str, value: Any, said: str | None
) -> None:
    config = dict(machine.settings(machine.CONFIGS / "fsdp2-cpu2.yaml"))
    given = config["fsdp_config"] | {key: value}
    config["fsdp_config"] = {name: one for name, one in given.items() if one is not None}
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(config))
    training = TrainingConfig(dtype="float32", accelerate=str(mine))
    if said is None:
        machine.Machine.of(training).check()
        return
    with pytest.raises(ConfigError, match=rf"mine\.yaml {said}"):
        machine.Machine.of(training).check()


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose `nvidia-smi` answers as the real one does: GPU 0 is nearly full."""
    script = tmp_path / "nvidia-smi"
    script.write_text('#!/bin/sh\ncase "$*" in *"-i 1"*) echo "1, 40960";; *) printf "0, 1024\\n1, 40960\\n";; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_full_device_is_named_and_a_free_one_is_accepted(two_gpus: None) -> None:
    machine.check_memory("1", 30)
    machine.check_memory(None, 0)
    with pytest.raises(TrainingError, match=r"GPU 0 has 1\.0 GiB free, and training\.free_memory_gb wants 30"):
        machine.check_memory(None, 30)


@pytest.mark.parametrize(
    ("given", "free"), [("1", ["GPU 1"]), ("", ["GPU 0", "GPU 1"]), ("MIG-1f", ["GPU 0", "GPU 1"])]
)
def test_only_the_gpus_that_the_process_was_given_count(
    two_gpus: None, given: str, free: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert [*machine.free_memory(None)] == free and [*machine.free_memory("1")] == ["GPU 1"]
    assert len(machine.total_memory(None)) == len(free)


def test_without_a_gpu_the_machine_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    machine.check_memory(None, 0.001)
    with pytest.raises(TrainingError, match="this machine has"):
        machine.check_memory("0", 1e6)


def test_a_named_precision_is_kept() -> None:
    assert machine.resolve_dtype("float32") == "float32"
    assert machine.resolve_dtype("bfloat16") == "bfloat16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("able", "resolved"), [({"avx512_bf16": True}, "bfloat16"), ({"avx512_f": True}, "float32")])
def test_auto_takes_bfloat16_where_the_processor_has_products_for_it(
    able: dict[str, bool], resolved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert machine.resolve_dtype("auto") == resolved
