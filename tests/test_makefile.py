"""The Makefile: when it makes the environment again."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLEAR = "-m venv --clear .venv"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder whose environment was made in it, and is newer than what it was made from."""
    folder = tmp_path / "a checkout"
    (folder / "deploy").mkdir(parents=True)
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in (
        "Makefile",
        "pyproject.toml",
        "setup.py",
        "deploy/requirements-cpu.txt",
        "deploy/requirements-gpu.txt",
    ):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv" / "bin" / "storyreason").write_text(f"#!{folder}/.venv/bin/python\n")
    for accelerator in ("cpu", "gpu"):
        (folder / ".venv" / f"installed-{accelerator}").touch()
    return folder


def dry_run(folder: Path, *arguments: str) -> str:
    """The commands that `make retrain` would run."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--dry-run", "retrain", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def test_an_environment_made_here_is_kept(checkout: Path) -> None:
    assert "venv/bin/storyreason retrain sample" in dry_run(checkout)
    assert "-m venv" not in dry_run(checkout)


def test_an_environment_that_came_with_a_copied_or_moved_folder_is_made_again(checkout: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(checkout, tmp_path / "copied")
    assert CLEAR in dry_run(copied)
    assert "-m venv" not in dry_run(checkout)
    assert CLEAR in dry_run(checkout.rename(tmp_path / "moved"))


def test_an_environment_elsewhere_serves_a_moved_folder(checkout: Path, tmp_path: Path) -> None:
    elsewhere = (checkout / ".venv").rename(tmp_path / "venv")
    (elsewhere / "bin" / "storyreason").write_text(f"#!{elsewhere}/bin/python\n")
    assert "-m venv" not in dry_run(checkout, f"VENV={elsewhere}")


def test_a_new_lock_adds_to_the_environment(checkout: Path) -> None:
    for lock in (checkout / "deploy").iterdir():
        os.utime(lock, (2**32, 2**32))
    assert "-m venv .venv" in " ".join(dry_run(checkout).split())
