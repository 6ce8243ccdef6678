import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from storyreason.errors import ConfigError, TrainingError
from storyreason.training import Job, TrainingConfig, job, launch, watch
from storyreason.training.machine import Machine
from tests.storyreason.training.whole import MakeJob

CPU = {"dtype": "float32", "accelerate": "cpu"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("training", [{}, {"dtype": "float32", "accelerate": "fsdp2-8gpu"}, {"accelerate": None}])
def test_a_gpu_preset_without_a_gpu_is_refused_before_anything_starts(
    tmp_path: Path, training: dict[str, object]
) -> None:
    wanted = Job(base="b", data=tmp_path, work=tmp_path / "work", training=TrainingConfig(**training))
    with pytest.raises(TrainingError, match=r"needs a GPU.*use the preset sample, or set training\.dtype=auto"):
        launch.run(wanted, print)
    assert not wanted.work.exists()


def started_by_accelerate(command: list[str]) -> Any:
    """What accelerate makes of a command line, up to the processes that it would start."""
    from accelerate.commands import launch as accelerate
    from accelerate.utils.launch import prepare_multi_gpu_env

    arguments = accelerate.launch_command_parser().parse_args([*command[3:], "-m", "storyreason.training"])
    arguments, _, _ = accelerate._validate_launch_command(arguments)
    prepare_multi_gpu_env(arguments)
    return arguments


def test_two_machines_of_eight_gpus_meet_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "_check_gpus", lambda self: None)
    two = Machine.of(TrainingConfig(accelerate="fsdp2-2nodes"))
    with pytest.raises(ConfigError, match=r"fsdp2-2nodes trains on 2 machines: set STORYREASON_MAIN_ADDRESS to"):
        launch._command(two, {launch.ADDRESS: "10.0.0.1"})
    command = launch._command(two, {launch.ADDRESS: "127.0.0.1:29517"})
    first = started_by_accelerate(command)
    assert (first.nnodes, first.node_rank, first.nproc_per_node) == ("2", 0, "8")
    assert (first.rdzv_backend, first.rdzv_endpoint) == ("static", "127.0.0.1:29517")
    assert first.use_fsdp
    assert two.local_processes == 8
    # The instructions for the others start the second machine
    told = launch.others(command, Path("/shared/job.json"))
    typed = shlex.split(told.partition("type  ")[2].replace(" N ", " 1 "))
    assert typed[-3:] == ["-m", "storyreason.training", "/shared/job.json"]
    second = started_by_accelerate(["", *typed[:-3]])
    assert (second.nnodes, second.node_rank, second.nproc_per_node) == ("2", 1, "8")
    assert (second.rdzv_backend, second.rdzv_endpoint) == ("static", "127.0.0.1:29517")
    assert (
        launch.others(launch._command(Machine.of(TrainingConfig(accelerate="fsdp2-8gpu")), {}), Path("job.json")) == ""
    )


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


def test_a_job_is_read_back_from_its_file(tmp_path: Path) -> None:
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
            "ran out of memory: lower training.pack_tokens, or lower training.batch",
        ),
        (-9, "", "kill -9"),
        (-15, "", "asked to stop"),
        (-9, "", "lower training.batch_size and raise training.accumulation by the same factor, or end"),
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
def test_the_end_of_a_training_is_explained(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, log: str, said: str
) -> None:
    # What a plan says takes long to compute: see tests/storyreason/training/test_memory.py.
    monkeypatch.setattr(launch, "_planned", lambda _: "It would fit otherwise.")
    (tmp_path / "log.txt").write_text("an earlier attempt: No space left on device\n" + log)
    start = (tmp_path / "log.txt").read_bytes().index(b"\n") + 1
    explained = str(launch._explained(code, tmp_path / "log.txt", start, make_job("explained")))
    assert said in explained
    assert ("It would fit otherwise." in explained) == ("ran out of memory" in explained)


def test_a_process_is_alive_until_it_ends_and_its_number_alone_does_not_identify_it() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    token = watch.process_token(sleeper.pid)
    assert watch.alive(token)
    assert not watch.alive(f"{os.getpid()}:1.00")
    sleeper.communicate(b"\n")
    assert not watch.alive(token)
