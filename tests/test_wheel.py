"""The wheel: what it holds and what it needs, and that it works outside the checkout with nothing else installed."""

import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from storyreason import dataset
from storyreason.format import answer

ROOT = Path(__file__).parents[1]
SOURCES = (
    "storyreason",
    "flows",
    "tasks",
    "deploy",
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)
HEAVY = ("torch", "transformers", "mlflow", "prefect", "vllm", "flows", "tasks")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the source distribution, which is built from a copy of the checkout."""
    checkout, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, checkout)
    archive = _build("sdist", checkout, out)
    with tarfile.open(archive) as packed:
        packed.extractall(checkout / "unpacked", filter="data")
    (source,) = (checkout / "unpacked").iterdir()
    return _build("wheel", source, out)


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds the wheel and the packages it names, and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, env=_environment())
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in _needed(wheel):
        for file in metadata.files(name) or ():
            top = file.parts[0]
            if top != ".." and not (packages / top).exists():
                (packages / top).symlink_to(Path(str(metadata.distribution(name).locate_file(top))))
    return folder / "bin"


@pytest.mark.server
def test_the_wheel_holds_the_library_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "storyreason",
        f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info",
    }
    for folder in ("presets", "accelerate"):
        packed = {Path(name).name for name in names if name.startswith(f"storyreason/deploy/{folder}/")}
        assert packed == {file.name for file in (ROOT / "deploy" / folder).iterdir()}
    assert "storyreason/py.typed" in names
    of_the_page = {path.relative_to(ROOT).as_posix() for path in (ROOT / "storyreason" / "page").rglob("*.*")}
    assert {name for name in of_the_page if not name.endswith(".pyc")} <= set(names)


@pytest.mark.server
def test_it_works_elsewhere_with_the_packages_it_names(
    bare: Path, examples: list[dataset.Example], tmp_path: Path
) -> None:
    def run(*arguments: str | Path, code: int = 0) -> str:
        result = subprocess.run(
            list(map(str, arguments)), cwd=tmp_path, capture_output=True, text=True, env=_environment()
        )
        assert result.returncode == code, result.stderr
        return result.stdout + result.stderr

    dataset.write(examples, tmp_path / "data", "train")
    dataset.write(examples, tmp_path / "data", "test")
    (tmp_path / "told").mkdir()
    for example in examples:
        text = answer.join(example.chain_of_thought, example.story)
        (tmp_path / "told" / f"{example.story_id}.txt").write_text(text)
    storyreason = bare / "storyreason"

    found = f"import importlib.util as u; print([n for n in {HEAVY} if u.find_spec(n)])"
    assert run(bare / "python", "-c", found) == "[]\n"
    assert run(storyreason, "--version") == f"storyreason {_project()['version']}\n"
    assert "retrain" not in run(storyreason, "--help")
    assert f"{2 * len(examples)} answers, {2 * len(examples)} valid" in run(storyreason, "check", "data")
    assert '"readable": true' in run(storyreason, "read", f"told/{examples[0].story_id}.txt")
    assert f"{len(examples)} stories." in run(storyreason, "score", "told", "--data", "data")
    assert f"{len(examples)} pages" in run(storyreason, "page", "data", "--out", "pages")
    assert "page.html" in run(storyreason, "stats", "data", "--out", "page.html")
    presets = "from storyreason import config; print(config.presets(), config.load('sample').name)"
    assert run(bare / "python", "-c", presets).endswith("'smoke'] sample\n")
    advice = run(storyreason, "merge", "data", "--base", "data", "--out", "merged", code=2)
    assert advice.endswith("pip install 'storyreason[train]'.\n") and advice.count("\n") == 1


def test_the_lock_is_in_the_bounds_that_the_wheel_names() -> None:
    project = _project()
    named = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    for requirement in map(Requirement, named):
        if requirement.marker is None or requirement.marker.evaluate():
            installed = metadata.version(requirement.name)
            assert requirement.specifier.contains(installed), f"{requirement}: {installed} is installed"


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _environment() -> dict[str, str]:
    """The environment less what would show the checkout's packages to another interpreter."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def _build(kind: str, source: Path, out: Path) -> Path:
    hook = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    result = subprocess.run(
        [sys.executable, "-c", hook], cwd=source, capture_output=True, text=True, env=_environment()
    )
    assert result.returncode == 0, result.stderr
    return out / result.stdout.splitlines()[-1]


def _needed(wheel: Path) -> Iterator[str]:
    """The wheel's dependencies without its extras, and theirs, as they are installed here."""
    (project,) = metadata.distributions(name="storyreason", path=[str(wheel)])
    wanted = list(map(Requirement, project.requires or ()))
    seen = set[str]()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        yield name
        wanted += map(Requirement, metadata.requires(name) or ())
