"""Which checkout a process works for, where its runs are, and that a copied or moved one is refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from storyreason import home, runs
from storyreason.errors import ConfigError, RunError

STORYREASON = Path(sys.executable).with_name("storyreason")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a checkout, with a folder in it; the current folder is outside."""
    for name in ("STORYREASON_RUNS", home.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "checkout"
    for part in ("deploy/presets", "storyreason", "docs/own"):
        (folder / part).mkdir(parents=True)
    (folder / "storyreason/home.py").touch()
    (tmp_path / "outside").mkdir()
    monkeypatch.chdir(tmp_path / "outside")
    return folder


def storyreason(folder: Path, *arguments: str, program: Path = STORYREASON) -> tuple[int, str]:
    """The exit code and the words of a verb that is called in a folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STORYREASON_", "PREFECT_"))}
    done = subprocess.run(
        [program, *arguments], cwd=folder, env=kept, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.returncode, " ".join(done.stdout.split())


def test_the_nearest_checkout_above_the_current_folder_has_the_runs(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout / "docs/own")
    assert home.folder() == checkout
    assert runs.root() == checkout / "runs"


def test_the_variable_names_the_checkout_from_anywhere(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(home.VARIABLE, str(checkout))
    assert runs.root() == checkout / "runs"

    monkeypatch.setenv("STORYREASON_RUNS", "elsewhere")  # relative to the checkout
    assert runs.root() == checkout / "elsewhere"
    monkeypatch.setenv("STORYREASON_RUNS", str(checkout.parent / "third"))
    assert runs.root() == checkout.parent / "third"


def test_outside_a_checkout_nothing_is_created(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"is not in a checkout of the project: .* --home"):
        runs.root()
    monkeypatch.setenv(home.VARIABLE, str(checkout / "docs"))
    with pytest.raises(ConfigError, match="is not a checkout of the project"):
        runs.root()
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "made before there was a mark"])
def test_runs_that_were_copied_or_moved_are_refused(
    checkout: Path, marked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    work = runs.work_folder("train", "0123456789abcdef")
    runs.write_manifest(work, result=str(work / "result"))
    if not marked:
        (checkout / "runs" / runs.PLACE).unlink()
    runs.root()

    copy = shutil.copytree(checkout, checkout.with_name("copy"))
    before = sorted(copy.rglob("*"))
    monkeypatch.chdir(copy)
    with pytest.raises(RunError, match=f"copy/runs is a copy of {checkout}/runs, .* changes that"):
        runs.root()
    assert sorted(copy.rglob("*")) == before

    shutil.rmtree(checkout)
    with pytest.raises(RunError, match=r"copy/runs was moved from .* changes that"):
        runs.root()
    shutil.rmtree(copy / "runs")
    assert runs.root() == copy / "runs"


def test_the_same_runs_by_another_path_are_the_same(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    runs.root()
    checkout.with_name("link").symlink_to(checkout)
    monkeypatch.setenv("STORYREASON_RUNS", str(checkout.with_name("link") / "runs"))
    assert runs.root() == checkout.with_name("link") / "runs"


def test_a_verb_goes_on_in_a_moved_checkout_and_says_so_once(checkout: Path) -> None:
    (checkout / "runs").mkdir()
    (checkout / "runs" / runs.PLACE).write_text("/another/checkout/runs\n")

    said = [storyreason(checkout / "docs", "read", "answer.txt")[1] for _ in range(2)]

    assert [one.count(f"{checkout}/runs was moved from /another/checkout/runs") for one in said] == [1, 0], said
    assert (checkout / "runs" / runs.PLACE).read_text() == f"{checkout}/runs\n"


def test_the_script_of_a_copied_environment_is_refused(checkout: Path) -> None:
    scripts = checkout / ".venv" / "bin"
    scripts.mkdir(parents=True)
    (checkout / ".venv" / "pyvenv.cfg").touch()
    script = Path(shutil.copy(STORYREASON, scripts))

    code, said = storyreason(checkout, "read", "answer.txt", program=script)

    assert code == 2
    assert f"{checkout}/.venv was copied or moved" in said and "run `make install`" in said


def test_dotenv_of_the_checkout_is_read_in_any_of_its_folders_and_from_anywhere(checkout: Path) -> None:
    (checkout / ".env").write_text("STORYREASON_RUNS=of-dotenv\n")

    assert storyreason(checkout / "docs/own", "down") == (0, "no gateway of this checkout is running")
    assert (checkout / "of-dotenv").is_dir()
    shutil.rmtree(checkout / "of-dotenv")
    assert storyreason(Path.cwd(), "--home", str(checkout), "down") == (0, "no gateway of this checkout is running")

    assert (checkout / "of-dotenv").is_dir()
    assert not (checkout / "runs").exists() and not (checkout / "docs/own/runs").exists()
    code, said = storyreason(Path.cwd(), "down")
    assert code == 2 and "is not in a checkout" in said
    assert not list(Path.cwd().iterdir())


def test_a_preset_beside_the_caller_and_paths_of_the_checkout(checkout: Path) -> None:
    """A file that is named on the command line is the caller's; what a configuration names is the checkout's."""
    (checkout / "docs" / "mine.yaml").write_text("training: {steps_too_many: 1}\n")
    code, said = storyreason(checkout / "docs", "retrain", "mine.yaml")
    assert code == 2 and "steps_too_many" in said

    code, said = storyreason(checkout / "docs", "data", "announce")
    assert code == 2 and f"{checkout} is not a DVC repository" in said
