"""Private names of dependencies are in one place, and an update of a library that changes one fails here."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from storyreason import compat
from storyreason.compat import Borrowed

ROOT = Path(__file__).parents[3]
ROOMS = (ROOT / "storyreason" / "compat", ROOT / "tasks" / "compat.py")
NAMED_TUPLES = {"_make", "_replace", "_asdict", "_fields"}
DOCUMENTED = {"_exit", "_typeshed"}  # private by name alone


@pytest.mark.parametrize("one", compat.BORROWED, ids=lambda one: f"{one.package} {one.name}")
def test_a_borrowed_name_is_as_it_was_checked(one: Borrowed) -> None:
    assert compat.fault(one) is None
    # whatever the version: the name is there, with these parameters
    if one.package != "vllm":  # importing it takes half a minute
        assert compat.fault(replace(one, version="0")) is None


def test_a_library_that_moved_says_what_to_check() -> None:
    one = Borrowed("torch", "0", "torch.nn:Module", "forward_hooks", None, "Run the tests of hooks.")
    said = compat.fault(one)
    assert said is not None
    assert said.startswith("torch is ") and "torch.nn:Module was last checked in 0: it has no forward_hooks" in said
    assert said.endswith("Run the tests of hooks.")
    gone = compat.fault(replace(one, owner="torch.nn:Modul"))
    assert gone is not None and "it is gone" in gone
    changed = compat.fault(replace(one, name="zero_grad", parameters="self"))
    assert changed is not None and "zero_grad takes (self set_to_none), not (self)" in changed


def test_a_library_that_is_not_installed_has_no_fault() -> None:
    assert compat.fault(Borrowed("no-such-package", "1", "nothing", "at_all", None, "")) is None


def test_no_private_name_of_a_dependency_is_used_elsewhere() -> None:
    files = [file for room in ("storyreason", "tasks", "flows", "benchmarks") for file in (ROOT / room).rglob("*.py")]
    trees = {file: ast.parse(file.read_text()) for file in files}
    ours = NAMED_TUPLES | DOCUMENTED | {name for tree in trees.values() for name in defined(tree)}
    found = {
        f"{file.relative_to(ROOT)}:{line} {name}"
        for file, tree in trees.items()
        if not any(file.is_relative_to(room) for room in ROOMS)
        for line, name in private(tree)
        if name not in ours
    }
    assert not found, "move them to storyreason/compat or tasks/compat.py, and name their version there"


def defined(tree: ast.Module) -> Iterator[str]:
    """The private names that a file defines itself, and the files and folders that may be imported by one."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def private(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Lines and private names that are read from something, or imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        else:
            continue
        for name in names:
            if name.startswith("_") and not name.startswith("__"):
                yield node.lineno, name
