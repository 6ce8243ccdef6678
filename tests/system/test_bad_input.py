"""Mistakes of users: one clear sentence, exit code 2, no stack trace, and nothing is left behind."""

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.system.conftest import STORYREASON, Project, wait_for

pytestmark = pytest.mark.server


def refused(project: Project, *arguments: str, preset: str = "smoke") -> str:
    """The sentence on the command line, after whatever Prefect has logged."""
    printed = project.run(*project.retrain(*arguments, preset=preset), code=2)
    assert "Traceback" not in printed
    return printed.strip().splitlines()[-1]


def test_an_unknown_parameter_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = subprocess.run(
        [STORYREASON, "retrain", "smoke", "--set", "training.learning_rat=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean 'training.learning_rate'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_gpu_preset_without_a_gpu(project: Project) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "needs a GPU" in refused(project, preset="qwen2.5-vl-7b-lora")


def test_a_port_in_use_is_named_before_anything_is_trained(project: Project) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", project.port))
        other.listen()
        assert f"ort {project.port}" in refused(project)
    assert not list(project.runs.glob("train/*"))


def test_a_base_model_that_is_not_there(project: Project) -> None:
    assert "./nothing" in refused(project, "--set", "base.name=./nothing")


def test_a_base_model_that_cannot_be_loaded(project: Project) -> None:
    folder = project.folder / "broken-base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert "broken-base" in refused(project, "--set", "base.name=broken-base", "--until", "train")


def test_ctrl_c_in_training_leaves_no_process(project: Project) -> None:
    process = project.start(*project.retrain())
    try:
        wait_for(lambda: list(project.runs.glob("train/*/checkpoint-*")), "the first checkpoint")
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert printed.endswith("storyreason: interrupted. Start it again: complete steps are not repeated.\n")
    wait_for(lambda: not project.processes("storyreason.training"), "the training process to end", 20)
