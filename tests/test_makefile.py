"""The Makefile: when it makes the environment again."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy import packages

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


@pytest.mark.parametrize("kind", ["cpu", "gpu", "tools"])
def test_a_lock_has_the_pins_of_its_list_and_a_hash_of_each_file(kind: str) -> None:
    """Else `make lock` was forgotten: pip installs what the lock says."""
    listed = packages.pins((ROOT / f"deploy/requirements-{kind}.in").read_text())
    locked = (ROOT / f"deploy/requirements-{kind}.txt").read_text()

    assert listed.items() <= packages.pins(locked).items()
    assert kind == "tools" or listed.keys() == packages.pins(locked).keys()  # the tools' list leaves out what they need
    for pin in re.split(r"\n(?=[A-Za-z])", locked.partition("make lock\n")[2]):
        assert "--hash=sha256:" in pin


def test_the_cpu_lock_allows_only_torchs_build_for_a_cpu() -> None:
    """Else pip takes the one from its index, for CUDA: it prefers a file whose hash it knows beforehand."""
    locked = (ROOT / "deploy/requirements-cpu.txt").read_text()
    makefile = (ROOT / "Makefile").read_text()
    (allowed,) = re.findall(r"(?m)^torch==\S+((?: \\\n    --hash=\S+)+)$", locked)
    assert re.findall(r"--hash=(\S+)", allowed) == re.findall(r"(?m)^TORCH_ON_CPU := (\S+)$", makefile)


def test_what_changed_in_a_lock_is_listed() -> None:
    before, after = packages.pins("a==1\nb==2\nC==3\n"), packages.pins("a==1\nb==2.1\nd==4 \\\n    --hash=x")
    assert packages.changes(before, after) == ["b 2 -> 2.1", "c 3 -> removed", "d new -> 4"]


def test_licences_that_no_metadata_name_say_where_they_were_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    components = [
        {"name": "huey", "version": "3.5.4"},
        {"name": "liger_kernel", "version": "1", "licenses": [{"license": {"name": "License :: OSI Approved"}}]},
        {"name": "new-one", "version": "2"},
        {"name": "click", "version": "8", "licenses": [{"license": {"id": "BSD-3-Clause"}}]},
    ]
    (tmp_path / "sbom.json").write_text(json.dumps({"components": components}))

    packages.licences(str(tmp_path / "sbom.json"))

    said = capsys.readouterr().out.splitlines()
    assert "MIT: huey 3.5.4" in said and "BSD-3-Clause: click 8" in said
    assert "no licence named in its metadata: new-one 2" in said
    assert said[-3:] == [
        "Read elsewhere than in metadata:",
        "huey 3.5.4: MIT (its LICENSE)",
        "liger_kernel 1: BSD-2-Clause (its LICENSE)",
    ]


def test_every_package_whose_licence_was_read_elsewhere_is_locked() -> None:
    locked = {name for lock in packages.LOCKS for name in packages.pins(lock.with_suffix(".txt").read_text())}
    assert packages.FOUND.keys() - locked <= {"vllm", "setuptools"}  # an alias of ours, and pip's own


def test_an_audit_that_reaches_nobody_says_so_and_does_not_fail(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    offline = tmp_path / "pip-audit"
    offline.write_text("#!/bin/sh\necho 'Connection refused' >&2\nexit 1\n")
    offline.chmod(0o755)
    assert packages.audit("lock.txt", str(offline)) == 0
    assert "nothing was checked (Connection refused)" in capsys.readouterr().out


def test_a_new_lock_adds_to_the_environment(checkout: Path) -> None:
    for lock in (checkout / "deploy").iterdir():
        os.utime(lock, (2**32, 2**32))
    assert "-m venv .venv" in " ".join(dry_run(checkout).split())


def test_the_readme_names_the_python_that_the_environment_is_made_with() -> None:
    (wanted,) = set(re.findall(r"environment is for Python ([\d.]+): (make \S+)", (ROOT / "Makefile").read_text()))
    readme = (ROOT / "README.md").read_text()
    assert f"Python {wanted[0]} ({wanted[0]} or newer with a GPU" in readme and f"{wanted[1]} retrain" in readme
