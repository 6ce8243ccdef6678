"""The command line as a whole: what it imports, how verbs join it, its version and its completion."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.testing import CliRunner

from storyreason import cli, dataset, model
from storyreason.cli import options
from storyreason.generation import config as generation
from storyreason.perception import identity
from storyreason.scoring import counting

HEAVY = [
    "torch",
    "transformers",
    "prefect",
    "mlflow",
    "numpy",
    "pandas",
    "pyarrow",
    "vllm",
    "pydantic",
    "PIL",
    "httpx",
    "scipy",
]


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from storyreason import cli
sys.argv = ["storyreason", "--help"]
try:
    cli.main()
finally:
    print("heavy:", [name for name in {HEAVY} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "retrain" in result.stdout
    assert result.stdout.splitlines()[-1] == "heavy: []"


def test_the_choices_are_those_of_the_library() -> None:
    assert get_args(options.Split) == dataset.SPLITS
    assert options.Decoding == generation.Decoding
    assert options.Dtype == model.Dtype
    assert options.Protocol == counting.Protocol
    assert options.Method == identity.Method


def test_version_and_completion() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert result.stdout == f"storyreason {metadata.version('storyreason')}\n"
    assert "--install-completion" in CliRunner().invoke(cli.app, ["--help"]).stdout


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution whose entry point names `extra_verbs.cli:join`; the package itself is the test's to write."""
    info = tmp_path / "extra_verbs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra-verbs\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{cli.COMMANDS}]\nextra = extra_verbs.cli:join\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", {n: m for n, m in sys.modules.items() if not n.startswith("extra_verbs")})
    return tmp_path / "extra_verbs"


def test_an_installed_package_adds_its_verbs(package: Path) -> None:
    package.mkdir()
    (package / "cli.py").write_text("def join(app):\n    app.command('extra')(lambda: print('told'))\n")
    app = typer.Typer()
    cli.join(app)
    assert CliRunner().invoke(app, ["extra"]).stdout == "told\n"


def test_a_package_that_is_not_installed_is_skipped(package: Path) -> None:
    cli.join(typer.Typer())
    package.mkdir()  # another package of that name, without the module
    cli.join(typer.Typer())


def test_a_failing_import_inside_a_package_is_an_error(package: Path) -> None:
    package.mkdir()
    (package / "cli.py").write_text("import a_package_that_nobody_has\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        cli.join(typer.Typer())


@pytest.mark.parametrize(
    ("module", "advice"),
    [
        ("torch", "pip install 'storyreason[train]'"),
        ("liger_kernel.transformers", "pip install 'storyreason[train]'"),
        ("pycocoevalcap", "pip install 'storyreason[paper]'"),
        ("fastapi", "make install"),
    ],
)
def test_a_missing_package_is_one_line_that_says_how_to_install_it(
    module: str, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(app: typer.Typer) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli, "join", fail)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    said = capsys.readouterr().err
    assert advice in said and said.count("\n") == 1


def test_a_module_that_the_project_itself_lacks_keeps_its_stack_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(app: typer.Typer) -> None:
        raise ModuleNotFoundError("No module named 'storyreason.nothing'", name="storyreason.nothing")

    monkeypatch.setattr(cli, "join", fail)
    with pytest.raises(ModuleNotFoundError):
        cli.main()
