"""CONTRIBUTING's recipes: each is a diff that applies to today's code, touches few files, and passes the test it brings."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs.commands import REPOSITORY

RECIPES = sorted((Path(__file__).parent / "recipes").glob("*.diff"))
MOST_FILES = 3
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PREFECT_", "MLFLOW_"))
}


def files(recipe: Path) -> list[str]:
    return re.findall(r"^\+\+\+ b/(.*)$", recipe.read_text(), re.M)


def added(recipe: Path) -> int:
    """How many lines it adds outside of tests and docs."""
    parts = re.split(r"^diff --git a/", recipe.read_text(), flags=re.M)[1:]
    return sum(
        len(re.findall(r"^\+(?!\+\+ )", part, re.M)) for part in parts if not part.startswith(("tests/", "docs/"))
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By recipe, what its test says in a copy of the code in which all recipes are applied; empty: it passed."""
    copy = tmp_path_factory.mktemp("recipes")
    for room in ("storyreason", "tasks", "flows", "deploy", "docs", "pyproject.toml"):
        source = REPOSITORY / room
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / room)
    for recipe in RECIPES:
        done = subprocess.run(["git", "apply", "-C1", recipe], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, f"{recipe.name} does not fit the code any more: {done.stderr}"
    report = copy / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "tests/recipes"]
    done = subprocess.run(
        command, cwd=copy, env={**ENVIRONMENT, "PYTHONPATH": str(copy)}, capture_output=True, text=True
    )
    assert report.is_file(), done.stdout + done.stderr
    cases = ElementTree.parse(report).iter("testcase")
    return {
        case.attrib["classname"].rpartition("test_")[2]: "".join(part.text or "" for part in case) for case in cases
    }


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_touches_few_files(recipe: Path) -> None:
    changed = [name for name in files(recipe) if not name.startswith(("tests/", "docs/"))]
    assert 1 <= len(changed) <= MOST_FILES, changed
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    size = f"{len(changed)} file{'s' * (len(changed) > 1)}, {added(recipe)} lines"
    assert f"(tests/docs/recipes/{recipe.name}), {size}." in " ".join(text.split())
    assert [name for name in changed if name not in text and (REPOSITORY / name).exists()] == []


@pytest.mark.server
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_works(recipe: Path, outcomes: dict[str, str]) -> None:
    assert outcomes[recipe.stem] == ""
