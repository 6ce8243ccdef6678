import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from storyreason.errors import ConfigError, TrainingError
from storyreason.training import Job, TrainingConfig, job, launch, watch

CPU = {"dtype": "float32", "accelerate": "cpu"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("training", [{}, {"dtype": "float32", "accelerate": "fsdp2-8gpu"}, {"accelerate": None}])
def test_a_gpu_preset_without_a_gpu_is_refused_before_anything_starts(
    tmp_path: Path, training: dict[str, object]
) -> None:
    wanted = Job(base="b", data=tmp_path, work=tmp_path / "work", training=TrainingConfig(**training))  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"needs a GPU.*use the preset sample, or set training\.dtype=auto"):
        launch.run(wanted, print)
    assert not wanted.work.exists()


@pytest.mark.parametrize(
    ("training", "gpus", "said"),
    [
        ({"accelerate": "fsdp2-2gpu"}, 1, r"wants 2 GPUs, .*this machine shows 1: set training\.accelerate=1gpu\."),
        (
            {"accelerate": "fsdp2-8gpu"},
            6,
            r"wants 8 GPUs, .*this machine shows 6: set training\.accelerate=fsdp2-2gpu\.",
        ),
        (
            {"accelerate": "fsdp2-2gpu", "devices": "3"},
            8,
            r"wants 2 GPUs, .*training\.devices=3 names 1: set training\.accelerate=1gpu\.",
        ),
        ({"accelerate": "fsdp2-2gpu", "devices": "0,3"}, 8, None),
        ({"accelerate": "fsdp2-8gpu"}, 8, None),
        ({"accelerate": "1gpu"}, 4, None),
        ({"accelerate": "fsdp2-cpu2", "dtype": "float32"}, 1, None),
    ],
)
def test_fewer_gpus_than_processes_are_told_with_a_file_that_fits(
    training: dict[str, Any], gpus: int, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if said is None:
        launch.check_machine(TrainingConfig(**training))
        return
    with pytest.raises(TrainingError, match=said):
        launch.check_machine(TrainingConfig(**training))


def test_an_unknown_accelerate_config_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'nope' is no file; name one of 1gpu, cpu, fsdp2-2gpu"):
        launch.check_machine(TrainingConfig(dtype="float32", accelerate="nope"))


@pytest.mark.parametrize("file", sorted(launch.CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_accelerate_config_is_one(file: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    assert config.num_processes >= 1
    if "fsdp" in file.stem:
        assert config.fsdp_config["fsdp_version"] == 2
        # Nothing is offloaded unasked
        assert config.fsdp_config["fsdp_offload_params"] == ("offload" in file.stem)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("fsdp_cpu_ram_efficient_loading", True, r"says fsdp_cpu_ram_efficient_loading: true: write .*: false under"),
        ("fsdp_cpu_ram_efficient_loading", None, r"does not say fsdp_cpu_ram_efficient_loading: write .*: false under"),
        ("fsdp_version", 1, r"says fsdp_version: 1: write fsdp_version: 2 under"),
        ("fsdp_version", None, r"does not say fsdp_version: write fsdp_version: 2 under"),
        ("fsdp_state_dict_type", "FULL_STATE_DICT", r"says fsdp_state_dict_type: .*: write .*SHARDED_STATE_DICT"),
        ("fsdp_state_dict_type", None, None),
    ],
)
def test_a_file_of_ones_own_is_refused_where_it_shards_otherwise(
    tmp_path: Path, key: str, value: Any, said: str | None
) -> None:
    config = launch._read(launch.CONFIGS / "fsdp2-cpu2.yaml")
    given = config["fsdp_config"] | {key: value}
    config["fsdp_config"] = {name: one for name, one in given.items() if one is not None}
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(config))
    training = TrainingConfig(dtype="float32", accelerate=str(mine))
    if said is None:
        launch.check_machine(training)
        return
    with pytest.raises(ConfigError, match=rf"mine\.yaml {said}"):
        launch.check_machine(training)


def started_by_accelerate(command: list[str]) -> Any:
    """What accelerate makes of a command line, up to the processes that it would start."""
    from accelerate.commands import launch as accelerate
    from accelerate.utils.launch import prepare_multi_gpu_env

    arguments = accelerate.launch_command_parser().parse_args([*command[3:], "-m", "storyreason.training"])
    arguments, _, _ = accelerate._validate_launch_command(arguments)
    prepare_multi_gpu_env(arguments)
    return arguments


def test_two_machines_of_eight_gpus_meet_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    path = launch.CONFIGS / "fsdp2-2nodes.yaml"
    with pytest.raises(ConfigError, match=r"fsdp2-2nodes trains on 2 machines: set STORYREASON_MAIN_ADDRESS to"):
        launch._meeting(launch._read(path), {launch.ADDRESS: "10.0.0.1"}, path)
    monkeypatch.setattr(launch, "_need_gpu", lambda *_: None)
    training = TrainingConfig(accelerate="fsdp2-2nodes")
    command = launch._command(training, {launch.ADDRESS: "127.0.0.1:29517"})
    first = started_by_accelerate(command)
    assert (first.nnodes, first.node_rank, first.nproc_per_node) == ("2", 0, "8")
    assert (first.rdzv_backend, first.rdzv_endpoint) == ("static", "127.0.0.1:29517")
    assert first.use_fsdp
    assert launch._processes(training) == 8
    # The others are told what to type, and it is that
    told = launch.others(command, Path("/shared/job.json"))
    typed = shlex.split(told.partition("type  ")[2].replace(" N ", " 1 "))
    assert typed[-3:] == ["-m", "storyreason.training", "/shared/job.json"]
    second = started_by_accelerate(["", *typed[:-3]])
    assert (second.nnodes, second.node_rank, second.nproc_per_node) == ("2", 1, "8")
    assert (second.rdzv_backend, second.rdzv_endpoint) == ("static", "127.0.0.1:29517")
    assert launch.others(launch._command(TrainingConfig(accelerate="fsdp2-8gpu"), {}), Path("job.json")) == ""


@pytest.mark.parametrize(
    ("training", "seen"),
    [
        ({"accelerate": None}, ""),
        ({"accelerate": "cpu", "devices": "1"}, ""),
        ({"accelerate": "fsdp2-cpu2"}, ""),
        ({"accelerate": "1gpu", "devices": "1"}, "1"),
        ({"accelerate": "1gpu"}, "0,1,2"),
    ],
)
def test_a_training_on_the_cpu_sees_no_gpu(
    tmp_path: Path, training: dict[str, Any], seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
    monkeypatch.setattr(launch, "_command", lambda *_: shown)
    wanted = Job(base="b", data=tmp_path, work=tmp_path, training=TrainingConfig(**{**CPU, **training}))
    launch.run(wanted, print, env={"CUDA_VISIBLE_DEVICES": "0,1,2"})
    assert (tmp_path / launch.LOG).read_text().strip() == seen


def test_a_job_survives_its_file(tmp_path: Path) -> None:
    written = Job(base="b", data=tmp_path, work=tmp_path, training=TrainingConfig(**CPU))
    assert job.read(job.write(written)) == written
    (tmp_path / "job.json").write_text('{"base": "b", "extra": 1}')
    with pytest.raises(ConfigError, match=r"job\.json"):
        job.read(tmp_path / "job.json")


@pytest.mark.parametrize(
    ("code", "log", "said"),
    [
        (2, launch.ERROR_MARK + '{"error": "ModelError", "message": "no such base"}', "no such base"),
        (1, "OSError: [Errno 28] No space left on device", "The disk is full"),
        (
            1,
            "torch.OutOfMemoryError: CUDA out of memory",
            "suffice: lower training.pack_tokens, or lower training.batch",
        ),
        (-9, "", "kill -9"),
        (-9, "", "lower training.batch_size and raise training.accumulation alike, or end"),
        (1, "subprocess.CalledProcessError: died with <Signals.SIGKILL: 9>.", "kill -9"),
        (
            1,
            launch.ERROR_MARK
            + '{"error": "TrainingError", "message": "closed by peer"}\nRoot Cause (first observed failure):\n'
            "  traceback : Signal 9 (SIGKILL) received by PID 7",
            "kill -9",
        ),
        (1, "Traceback\nValueError: odd", "ValueError: odd"),
    ],
)
def test_the_end_of_a_training_is_explained(tmp_path: Path, code: int, log: str, said: str) -> None:
    (tmp_path / "log.txt").write_text("an earlier attempt: No space left on device\n" + log)
    start = (tmp_path / "log.txt").read_bytes().index(b"\n") + 1
    assert said in str(launch._explained(code, tmp_path / "log.txt", start))


def test_a_process_is_alive_until_it_is_gone_and_its_number_alone_is_not_enough() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    token = watch.process_token(sleeper.pid)
    assert watch.alive(token)
    assert not watch.alive(f"{os.getpid()}:1.00")
    sleeper.communicate(b"\n")
    assert not watch.alive(token)
