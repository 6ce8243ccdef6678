"""The GPU benchmark runs on a CPU too, so that a module that moves does not break it unseen."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import PARTS

ROOT = Path(__file__).parents[2]


def test_every_part_is_a_function_or_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("GPU_BENCHMARK_DRY", "1")
    from recipes import recipes

    known = {recipe.name for recipe in recipes("7b", "lora")}
    for part in PARTS:
        module, _, function = part.what.partition(":")
        if function:
            assert callable(getattr(import_module(f"benchmarks.gpu.{module}"), function))
        else:
            assert part.what in known


@pytest.mark.server
def test_a_dry_run_reports_a_line_for_every_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--dry", "--parts", "hardware", "attention"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, lines
    assert {line["way"] for line in lines if "way" in line} >= {"loop, torch's choice", "loop, flash"}
    assert [line["part"] for line in lines if "left" in line] == ["hardware", "attention"]
    assert lines[-1]["part"] == "all"
