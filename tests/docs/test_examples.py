"""Every `>>>` of the library's docstrings and of the docs gives what it says."""

import doctest
import importlib
import shutil
from pathlib import Path

import pytest

from storyreason import dataset, sample
from tests.docs.commands import PAPERS, REPOSITORY

MODULES = sorted(
    path
    for room in ("storyreason", "tasks", "flows")
    for path in (REPOSITORY / room).rglob("*.py")
    if ">>> " in path.read_text()
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples run: the test split's first film as `data`, and the frames of the docs."""
    folder = tmp_path_factory.mktemp("examples")
    dataset.write(sample.examples("test", films=1), folder / "data", "test")
    shutil.copytree(REPOSITORY / "docs" / "frames", folder / "docs" / "frames")
    return folder


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_examples_of_a_module(module: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    name = ".".join(module.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    done = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert done.attempted and not done.failed
    assert "+SKIP" not in module.read_text(), "an example that is not run may be wrong: run it, or write prose"


@pytest.mark.parametrize(
    "paper", [path for path in PAPERS if ">>> " in path.read_text()], ids=lambda path: str(path.relative_to(REPOSITORY))
)
def test_the_examples_of_a_document(paper: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = doctest.testfile(str(paper), module_relative=False, optionflags=FLAGS, encoding="utf-8")
    assert done.attempted and not done.failed
