"""A small project with its data under DVC, and fresh clones of it."""

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from storyreason import dataset, sample
from storyreason.config import DataConfig
from tasks import data


def run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def dvc(folder: Path, *arguments: str) -> None:
    """DVC's command line in this process: the program takes seconds to start."""
    from dvc.cli import main

    with contextlib.chdir(folder):
        assert main(["-q", *arguments]) == 0, arguments


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message)


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project with two versions of its data (`v1`, `v2`) in a store inside the repository."""
    origin = tmp_path_factory.mktemp("project")
    (origin / "data").mkdir()
    run(origin, "git", "init", "-q")
    dvc(origin, "init")
    dvc(origin, "remote", "add", "-d", "sample", "store")
    dvc(origin, "remote", "modify", "sample", "verify", "true")
    for version in ("v1", "v2"):
        (origin / "data" / f"train-{version}.parquet").write_text(version)
        dvc(origin, "add", "data")
        dvc(origin, "push")
        commit(origin, version)
        run(origin, "git", "tag", version)
    return origin


@pytest.fixture
def clone(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone of it: the files that Git tracks, with nothing pulled."""
    shutil.copytree(origin, tmp_path / "clone", ignore=shutil.ignore_patterns("cache", "tmp", "data"))
    monkeypatch.chdir(tmp_path / "clone")
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    return tmp_path / "clone"


def pull(config: DataConfig) -> list[str]:
    with disable_run_logger():
        pulled = data.pull.compute(data.identify(config), check=False)
    return sorted(path.name for path in pulled.folder.iterdir())


@pytest.fixture(scope="session")
def pushed(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A clone with a real data set, which is pushed, and a folder of stories that can be added to it."""
    clone, new = tmp_path_factory.mktemp("pushed") / "clone", tmp_path_factory.mktemp("new")
    shutil.copytree(origin, clone, ignore=shutil.ignore_patterns("cache", "tmp", "data"))
    train, test = list(sample.examples("train", films=2)), list(sample.examples("test", films=1))
    for split, examples in (("train", train[:2]), ("test", test)):
        dataset.write(examples, clone / "data", split)
    dvc(clone, "add", "data")
    dvc(clone, "push")
    commit(clone, "stories")
    dataset.write(train[2:], new, "train")
    return clone, new


@pytest.fixture
def stories(pushed: tuple[Path, Path], clone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The clone with a real data set, which is pushed. Gives a folder of stories that can be added to it."""
    shutil.rmtree(clone)
    shutil.copytree(pushed[0], clone, ignore=shutil.ignore_patterns("tmp"))
    monkeypatch.chdir(clone)
    return Path(shutil.copytree(pushed[1], clone.parent / "new"))
