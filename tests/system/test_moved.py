"""A checkout with an environment of its own, a half-done training and a champion: copied, and moved."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import prefect
import pytest
from mlflow import MlflowClient
from prefect.logging import disable_run_logger

from storyreason import config, model
from storyreason.serving import state
from tasks import registry, tracking
from tasks.data import Base
from tasks.results import Trained
from tests.adapting import write_result
from tests.system.conftest import Project, clone, wait_for

pytestmark = [pytest.mark.server, pytest.mark.long]
PACKAGES = Path(prefect.__file__).parents[1]


def install(project: Project) -> None:
    """`make install`, but for the 5 GB of the lock: packages come from the environment of the tests."""
    lock = project.folder.parent / "empty.txt"
    lock.touch()
    environment = {
        name: value for name, value in project.environment.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    environment["PYTHONPATH"] = str(PACKAGES)  # for pip's builds
    done = subprocess.run(
        ["make", "install", f"LOCK={lock}", f"PYTHON={sys.executable}"],
        cwd=project.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    programs = project.folder / ".venv" / "bin"
    python = f"#!{programs}/python\n"
    assert (programs / "storyreason").read_text().startswith(python)
    _, _, vllm = Path(sys.executable).with_name("vllm").read_text().partition("\n")
    (programs / "vllm").write_text(python + vllm)  # which the lock would have brought
    (programs / "vllm").chmod(0o755)
    # After the environment's own folder: in PYTHONPATH the editable mapping of the tests' environment would come first.
    (site,) = (project.folder / ".venv" / "lib").glob("python*/site-packages")
    (site / "packages.pth").write_text(f"{PACKAGES}\n")


def at(folder: Path, environment: dict[str, str]) -> Project:
    return Project(folder, environment, program=str(folder / ".venv" / "bin" / "storyreason"))


def make_champion(project: Project, patch: pytest.MonkeyPatch) -> str:
    """Register a version in the project, as its own training would, and have it be what was served last."""
    patch.setenv("STORYREASON_RUNS", str(project.runs))
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.runs}/mlflow/mlflow.db")
    chosen = config.load("smoke", ["training.mode=lora"])
    base, place = project.folder / "tiny-base", project.folder.parent / "trained"
    result = write_result(base, place / "result", seed=1)
    (place / "training_stories.json").write_text("[]")
    run_id = tracking.open_run("train", "of the champion", "smoke", {}, {})
    trained = Trained((), fingerprint="of the champion", result=result, run_id=run_id, data_md5="")
    with disable_run_logger():
        made = registry.register.compute(chosen, Base(str(base), model.load_identity(str(base))), trained)
    MlflowClient().set_registered_model_alias(made.name, "champion", made.number)
    name = f"models:/{made.name}/{made.number}"
    state.write_served(state.Served(str(made.folder), made.number, None, "2026-01-01", registered=name), "smoke")
    return name


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """What would change in a folder if anybody wrote there."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


def check_that_it_serves(project: Project, name: str) -> None:
    """The gateway, started again, has its own engine serve its own folder of the champion."""
    gateway = project.start("serve", "smoke", "--set", f"serving.port={project.port}")

    def healthy() -> bool:
        assert gateway.poll() is None, gateway.stdout.read() if gateway.stdout else ""
        try:
            return httpx.get(f"{project.url}/healthz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_for(healthy, "the champion behind the gateway")
    assert httpx.get(f"{project.url}/healthz", trust_env=False).json()["registered"] == name
    (engine,) = [line for line in project.processes("vllm") if " serve " in line and "--served-model-name" in line][:1]
    assert f"{project.folder}/.venv/bin/vllm serve {project.runs}/register/" in engine
    assert [line for line in project.processes("guard.py") if f"{project.folder}/storyreason/guard.py" in line]
    project.run("down")
    gateway.wait(60)
    if gateway.stdout is not None:
        gateway.stdout.close()


def test_a_copy_serves_its_own_and_a_moved_checkout_goes_on(
    prefect_server: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a checkout with an environment that `make` made, a champion, and a training that was stopped half-way
    made = clone(tmp_path / "checkout", {**prefect_server, "OMP_NUM_THREADS": "1"})
    del made.environment["STORYREASON_RUNS"]
    original = at(made.folder, made.environment)
    install(original)
    original.kill_when(
        lambda: list(original.runs.glob("train/*/checkpoint-2")),
        "the first checkpoint",
        *original.retrain("--until", "train"),
    )
    wait_for(lambda: not original.processes("storyreason.training"), "the training process to end", 20)
    with monkeypatch.context() as patch:
        champion = make_champion(original, patch)
    before = files(original.folder)

    # When it is copied, with its environment, and the copy is started as the docs say
    copy = at(Path(shutil.copytree(original.folder, tmp_path / "copy", symlinks=True)), original.environment)
    install(copy)
    said = copy.run("status")
    assert f"{copy.runs} is a copy of {original.runs}" in said
    check_that_it_serves(copy, champion)
    # Then the original is as it was
    assert files(original.folder) == before

    # And when it is moved, it goes on where it is
    shutil.rmtree(copy.folder)
    moved = at(original.folder.rename(tmp_path / "elsewhere"), original.environment)
    install(moved)
    said = moved.run(*moved.retrain("--until", "train"))
    assert f"{moved.runs} was moved from {original.runs}" in said
    (work,) = [path.parent for path in moved.runs.glob("train/*/manifest.json")]
    progress = [json.loads(line) for line in (work / "progress.jsonl").read_text().splitlines()]
    starts = [line["step"] for line in progress if line["event"] == "start"]
    assert starts[0] == 0 and starts[-1] >= 2
    assert [line["step"] for line in progress if line["event"] == "step"] == list(range(1, 9))
    check_that_it_serves(moved, champion)
    assert not os.path.lexists(original.folder)
