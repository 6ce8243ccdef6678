"""The floors and rooms that ARCHITECTURE.md describes: no import points up, none goes round in a circle.

Imports inside functions and under `TYPE_CHECKING` count too. The contracts are in `pyproject.toml`, `[tool.importlinter]`.
"""

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
