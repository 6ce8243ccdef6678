"""Cleaning removes old versions, trainings and data, but nothing that an alias, the gateway or a running job uses."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from storyreason import runs
from storyreason.errors import RunError
from storyreason.serving import state
from tasks import builds, cache, cleaning, registry, tracking


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: None) -> Path:
    """Five versions, each with its training (two checkpoints), weights and evaluation."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    mlflow = MlflowClient()
    mlflow.create_registered_model("storyteller")
    for number in range(1, 6):
        run_id = mlflow.create_run(tracking.experiment()).info.run_id
        weights = work("register", number) / "model"
        write(weights / "model.safetensors", 1000)
        write(weights / "config.json", 2)
        train = work("train", number)
        for part in ("checkpoint-5/weights", "checkpoint-10/weights", "result/adapter"):
            write(train / part, 100)
        runs.write_manifest(train, run_id=run_id)
        runs.write_manifest(work("evaluate", number), run_id=run_id)
        runs.write_manifest(weights.parent, run_id=run_id)
        tags = {"storyreason.folder": str(weights), "storyreason.register": f"{number:016}"}
        mlflow.create_model_version("storyteller", str(weights), run_id, tags=tags)
    return tmp_path


def work(step: str, number: int) -> Path:
    return runs.work_folder(step, f"{number:016}")


def write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def left(root: Path, step: str) -> set[int]:
    return {int(path.name) for path in (root / step).iterdir() if not path.name.startswith(".")}


def test_the_newest_and_those_with_an_alias_stay(root: Path) -> None:
    MlflowClient().set_registered_model_alias("storyteller", "previous", "2")

    cleaning.remove(cleaning.plan(keep=2))

    assert left(root, "register") == left(root, "train") == left(root, "evaluate") == {2, 4, 5}
    assert not list(root.glob("train/*/checkpoint-*"))
    assert (work("register", 2) / "model/model.safetensors").stat().st_size == 1000
    assert "cleaned" in registry.tags_of(registry.version("storyteller", "1"))
    assert "cleaned" not in registry.tags_of(registry.version("storyteller", "2"))
    assert cleaning.plan(keep=2) == []


def test_what_a_process_loads_stays_until_it_ends(root: Path) -> None:
    """`tell` and notebooks are no flow runs, and hold no step's folder."""
    loaded = registry.with_weights("storyteller", "1")
    planned = cleaning.plan(keep=1, look=True)
    assert left(root, "register") == {1, 2, 3, 4, 5}
    assert Path(loaded.folder).parent not in {item.path for item in planned}
    os.close(cache.HELD.pop(Path(loaded.folder).with_name(cache.USED)))
    assert Path(loaded.folder).parent in {item.path for item in cleaning.plan(keep=1)}


def test_what_the_gateway_serves_stays(root: Path) -> None:
    state.write_served(state.Served(str(work("register", 1) / "model"), "1", None, "2026-01-01"))

    cleaning.remove(cleaning.plan(keep=1))

    assert left(root, "register") == left(root, "train") == {1, 5}


def test_a_dry_run_lists_what_would_be_removed_and_removes_nothing(root: Path) -> None:
    items = cleaning.plan(keep=4)

    said = cleaning.report(items, removed=False)

    assert "weights of storyteller version 1" in said
    assert "would be removed" in said
    assert left(root, "register") == {1, 2, 3, 4, 5}
    assert sum(item.bytes for item in items if "checkpoint" in item.what) == 4 * 200


def test_checkpoints_that_the_configuration_keeps_stay(root: Path) -> None:
    (work("train", 5) / "job.json").write_text('{"training": {"keep_checkpoints": true}}')

    cleaning.remove(cleaning.plan(keep=2))

    assert {path.parent.name for path in root.glob("train/*/checkpoint-*")} == {work("train", 5).name}


def test_the_training_that_an_unfinished_improvement_starts_from_stays(root: Path) -> None:
    """A full disk ends an improvement before either has a version; the remedy that is named must not undo days of work."""
    for number in (7, 8):
        write(work("train", number) / "result/adapter", 100)
        os.utime(work("train", number), (number, number))
    improvement = work("improve", 9)
    write(improvement / "checkpoint-5/weights", 100)
    (improvement / "job.json").write_text(json.dumps({"training": {}, "start": "/moved/train/0000000000000007/result"}))

    cleaning.remove(cleaning.plan(keep=1))

    assert left(root, "improve") == {9}
    assert left(root, "train") == {5, 7}


@pytest.mark.parametrize("cache", ["features", "prepared"])
def test_the_newest_caches_of_trainings_stay(root: Path, cache: str) -> None:
    for number in (1, 2, 3):
        write(root / cache / f"{number:016}" / "part", 10)
        os.utime(root / cache / f"{number:016}", (number, number))

    cleaning.remove(cleaning.plan(keep=2))

    assert left(root, cache) == {2, 3}


def test_unfinished_trainings_and_fetched_data_are_removed_except_the_newest(root: Path) -> None:
    for number in (7, 8):
        write(work("train", number) / "checkpoint-5/weights", 10)
        os.utime(work("train", number), (number, number))
    for number, name in enumerate(("0123", "4567")):
        write(root / "data" / name / "train-0.parquet", 10)
        os.utime(root / "data" / name, (number, number))

    cleaning.remove(cleaning.plan(keep=1))

    assert left(root, "train") == {5, 8}
    assert list((work("train", 8)).glob("checkpoint-5"))  # it may be gone on with
    assert [folder.name for folder in (root / "data").iterdir()] == ["4567"]


def test_the_base_of_a_training_that_stays_is_not_taken_for_data(root: Path) -> None:
    for number, name in enumerate(("base", "older base", "0123", "4567")):
        write(root / "data" / name / "file", 10)
        os.utime(root / "data" / name, (number, number))
    for number, name in ((5, "base"), (1, "older base")):
        (work("train", number) / "job.json").write_text(json.dumps({"base": str(root / "data" / name), "training": {}}))

    cleaning.remove(cleaning.plan(keep=1))

    assert left(root, "train") == {5}
    assert {folder.name for folder in (root / "data").iterdir()} == {"base", "4567"}


def test_what_no_new_build_uses_is_removed_and_what_many_folders_hold_is_one_line(root: Path) -> None:
    for number in range(1, 9):
        write(work("extract", number) / "frames.parquet", 1_000_000)
        write(root / "calls" / f"{number:016}" / "reply.json", 10)
        if number > 6:
            with builds.recorded(f"films-{number}", "mine") as record:
                record.use(work("extract", number))

    items = cleaning.plan(keep=1)
    said = cleaning.report(items, removed=False)

    assert f"       6.0 MB  frames of a film, of no build, 6 times: {root / 'extract'}" in said.splitlines()
    assert f"       1.0 MB  frames of a film, of an older build: {work('extract', 7)}" in said.splitlines()
    cleaning.remove(items)
    assert left(root, "extract") == {8} and len(left(root, "calls")) == 8
    assert len(list((root / "builds").iterdir())) == 1 and cleaning.plan(keep=1) == []


def test_what_killed_processes_left_is_listed_and_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `clean` is killed in the middle of gigabytes; a pull, a registration and a checkpoint never end."""

    def killed(folder: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        for path in (work("register", 1), work("train", 5) / "checkpoint-5"):
            with pytest.raises(KeyboardInterrupt):
                cache.remove(path)
    steps = [root / "data/.0123.part", work("register", 5) / ".model.writing", work("train", 5) / ".checkpoint-15"]
    steps.append(work("train", 4) / ".result")
    steps += [work("improve", 6) / "model", work("improve", 7) / ".model.writing"]  # of a round's answers
    for path in steps:
        write(path / "weights", 3000)
    removals = [root / "register" / f".gone-{1:016}", work("train", 5) / ".gone-checkpoint-5"]

    found = {item.path: item.what for item in cleaning.plan(keep=5, look=True)}
    assert all(found.pop(path) == "what an interrupted step left" for path in steps)
    assert all(found.pop(path) == "what an interrupted removal left" for path in removals)
    assert all(path.name.startswith("checkpoint-") for path in found)

    items = cleaning.plan(keep=5)
    cleaning.remove(items)
    assert not any(path.exists() for path in (*steps, *removals))
    said = cleaning.report(items, removed=True)
    assert "what an interrupted removal left" in said and "what an interrupted step left" in said
    assert left(root, "register") == {2, 3, 4, 5} and left(root, "train") == {1, 2, 3, 4, 5}
    assert cleaning.plan(keep=5) == []


def test_while_data_change_nothing_is_removed(root: Path) -> None:
    """A data set in the runs may be what they become."""
    with runs.lock(root / "change" / "data"), pytest.raises(RunError, match="job is running"):
        cleaning.plan(keep=1)


@pytest.fixture
def job(root: Path) -> Iterator[None]:
    """Another process that holds a training's folder, as a training does."""
    code = (
        "import sys; from pathlib import Path; from storyreason import runs\n"
        "with runs.lock(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(work("train", 3))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    yield
    process.stdin.close()
    process.stdout.close()
    process.wait()


def test_while_a_job_runs_nothing_is_removed(root: Path, job: None) -> None:
    with pytest.raises(RunError, match="job is running"):
        cleaning.plan(keep=1)


def test_a_dry_run_looks_while_a_job_runs(root: Path, job: None) -> None:
    items = cleaning.plan(keep=1, look=True)
    assert "weights of storyteller version 4" in cleaning.report(items, removed=False)
