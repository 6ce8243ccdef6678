"""The floors and rooms that ARCHITECTURE.md describes: no import points up, none goes round in a circle.

Imports inside functions and under `TYPE_CHECKING` count too. The contracts are in `pyproject.toml`, `[tool.importlinter]`.
"""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]


def test_no_import_points_up() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_no_import_goes_round_in_a_circle() -> None:
    graph = grimp.build_graph("storyreason", "tasks", "flows", cache_dir=None)
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imported).prepare()  # a CycleError names the modules of a circle


FLOORS = ("storyreason", "tasks", "flows", "tests", "benchmarks", "docs")
LONGEST_FILE, LONGEST_FUNCTION = 350, 60
EXCEPTIONS: dict[str, str] = {}
"""Files and functions (`path:name`) that may be longer, with the reason."""


def test_no_file_and_no_function_is_too_long() -> None:
    found = {}
    for path in (path for floor in FLOORS for path in (ROOT / floor).rglob("*.py")):
        text, name = path.read_text(), path.relative_to(ROOT).as_posix()
        if text.count("\n") > LONGEST_FILE:
            found[name] = text.count("\n")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    found[f"{name}:{node.name}"] = lines
    assert not {name: lines for name, lines in found.items() if name not in EXCEPTIONS}
    assert not EXCEPTIONS.keys() - found.keys()  # an exception that is no longer needed


def test_only_one_module_opens_pictures() -> None:
    """Two decoders never agree on odd pictures. Benchmarks open what they have drawn."""
    files = [path for floor in ("storyreason", "tasks", "flows") for path in (ROOT / floor).rglob("*.py")]
    opening = [
        path.name for path in files if "Image.open(" in path.read_text() or "exif_transpose(" in path.read_text()
    ]
    assert opening == ["pictures.py"]
