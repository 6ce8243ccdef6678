"""Every file and symbol that ARCHITECTURE and CONTRIBUTING name is there."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.commands import REPOSITORY

PAPERS = [REPOSITORY / "ARCHITECTURE.md", REPOSITORY / "CONTRIBUTING.md"]
FLOORS = r"(?:storyreason|tasks|flows|deploy|tests|benchmarks|docs)/"
NAMED = re.compile(rf"`({FLOORS}[\w./-]*)`((?:(?: \| |,? )`[A-Za-z_][\w.]*`)*)")
"""A path in backticks, and the symbols after it: `` `storyreason/format/rules.py` `RULES`, `check` ``."""


def named(paper: Path) -> list[tuple[str, str]]:
    """Each path with each of its symbols, and with none."""
    pairs = []
    for path, symbols in NAMED.findall(paper.read_text()):
        pairs += [(path, symbol) for symbol in re.findall(r"[A-Za-z_][\w.]*", symbols)] or [(path, "")]
    return pairs


def defined(path: Path) -> set[str]:
    """The names that a module defines; those of a class with the class before them too."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        names = _names(node)
        found |= names
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for inner in node.body for name in _names(inner)}
    return found


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_every_file_and_symbol_is_there(paper: Path) -> None:
    pairs = named(paper)
    assert len(pairs) > 15
    for path, symbol in pairs:
        assert (REPOSITORY / path).exists(), path
        assert not symbol or symbol in defined(REPOSITORY / path), f"{path} has no {symbol}"


def test_a_symbol_that_is_gone_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "paper.md").write_text("| a rule | `storyreason/format/rules.py` | `RULES`, `LAWS` |\n")
    assert named(tmp_path / "paper.md") == [
        ("storyreason/format/rules.py", "RULES"),
        ("storyreason/format/rules.py", "LAWS"),
    ]
    assert "RULES" in defined(REPOSITORY / "storyreason/format/rules.py")
    assert "LAWS" not in defined(REPOSITORY / "storyreason/format/rules.py")


def test_every_room_is_on_the_map() -> None:
    rooms = {path.name for path in (REPOSITORY / "storyreason").iterdir() if not path.name.startswith(("_", "py"))}
    text = PAPERS[0].read_text()
    assert {room for room in rooms if f"`storyreason/{room}" not in text} == set()


def test_the_map_has_the_rooms_in_the_order_of_the_import_contract() -> None:
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one.get("containers") == ["storyreason"])
    level = {room: number for number, layer in enumerate(layers) for room in re.findall(r"\w+", layer)}

    shown = re.findall(r"^\| `storyreason/(\w+)", PAPERS[0].read_text(), re.M)

    assert len(shown) > 15
    assert [level[room] for room in shown] == sorted(level[room] for room in shown)
