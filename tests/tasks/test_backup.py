"""A backup holds what cannot be made again, and is restored at another path, where everything is found again."""

import os
import shutil
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from storyreason import runs
from storyreason.errors import RunError
from storyreason.serving import state
from tasks import backup, registry, tracking, versioning
from tests.tasks.cloned import clone, dvc, origin  # noqa: F401 (fixtures)

pytestmark = pytest.mark.server


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Makes a folder the current checkout, with its own runs, and gives these."""

    def enter(folder: Path) -> Path:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("STORYREASON_RUNS", str(folder / "runs"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/runs/mlflow/mlflow.db")
        (folder / "runs" / "mlflow").mkdir(parents=True, exist_ok=True)
        return runs.root()

    for name in ("PREFECT_API_URL", "STORYREASON_MLFLOW_ARTIFACTS", "PREFECT_API_DATABASE_CONNECTION_URL"):
        monkeypatch.delenv(name, raising=False)
    return enter


@pytest.fixture
def used(clone: Path, place: Callable[[Path], Path]) -> Path:  # noqa: F811
    """A clone with two versions, the first of which is the champion, and data that was never pushed."""
    root = place(clone)
    client = MlflowClient()
    client.create_registered_model("storyteller")
    for number in ("1", "2"):
        run_id = client.create_run(tracking.experiment(), run_name=f"sample {number}").info.run_id
        client.log_text(run_id, f"report {number}", "gate/report.md")
        weights, train = runs.work_folder("register", 16 * number) / "model", runs.work_folder("train", 16 * number)
        for path in (weights / "model.safetensors", train / "result/adapter", train / "checkpoint-5/optimizer"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"w" * 100)
        runs.write_manifest(train, files=("result",), run_id=run_id, result=str(train / "result"))
        runs.write_manifest(weights.parent, files=("model",), folder=str(weights))
        tags = {"storyreason.folder": str(weights), "storyreason.register": number}
        client.create_model_version("storyteller", str(weights), run_id, tags=tags)
    client.set_registered_model_alias("storyteller", "champion", "1")
    (root / "prefect").mkdir()
    with closing(sqlite3.connect(root / "prefect" / "prefect.db")) as prefect, prefect:
        prefect.execute("CREATE TABLE flow_run (name TEXT)")
        prefect.execute("INSERT INTO flow_run VALUES ('retrain-sample')")
    state.write_served(state.Served(str(root / "register" / (16 * "1") / "model"), "1", None, ""))
    (clone / ".env").write_text("STORYREASON_CRON=0 5 * * 1\n")
    (clone / "data").mkdir()
    (clone / "data" / "train-v3.parquet").write_text("never pushed")
    dvc(clone, "add", "data")
    return clone


def test_it_is_restored_at_another_path_and_everything_is_found(
    used: Path,
    origin: Path,  # noqa: F811
    place: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    file = tmp_path / "kept" / "backup.tar"
    token, md5 = state.token(), versioning.identify("data.dvc", None).md5
    backup.write(file)
    new = shutil.copytree(origin, tmp_path / "other" / "clone", ignore=shutil.ignore_patterns("cache", "tmp", "data"))
    shutil.rmtree(used)
    root = place(new)

    left = backup.restore(file)

    champion = registry.version("storyteller", "champion")
    assert champion.number == "1" and champion.folder == str(root / "register" / (16 * "1") / "model")
    assert (Path(champion.folder) / "model.safetensors").read_bytes() == b"w" * 100
    client = MlflowClient()
    for run in client.search_runs([tracking.experiment()]):
        number = str(run.info.run_name).removeprefix("sample ")
        report = client.download_artifacts(run.info.run_id, "gate/report.md", str(tmp_path))
        assert Path(report).read_text() == f"report {number}"
    trained = runs.read_manifest(root / "train" / (16 * "1"))
    assert trained is not None and trained["result"] == str(root / "train" / (16 * "1") / "result")
    assert not list(root.glob("train/*/checkpoint-*")) and not (root / "train" / (16 * "2")).exists()
    served = state.served()
    assert served is not None and served.folder == champion.folder and state.token() == token
    with closing(sqlite3.connect(root / "prefect" / "prefect.db")) as prefect:
        assert prefect.execute("SELECT name FROM flow_run").fetchall() == [("retrain-sample",)]
    assert (new / ".env").read_text() == "STORYREASON_CRON=0 5 * * 1\n"

    assert any("data.dvc differs from the backup's, which is data.dvc.restored" in one for one in left)
    assert any("data that was never pushed are in DVC's cache: push them with `dvc push`" in one for one in left)
    shutil.move(new / "data.dvc.restored", new / "data.dvc")
    dvc(new, "checkout", "data.dvc")
    assert (new / "data" / "train-v3.parquet").read_text() == "never pushed"
    assert versioning.identify("data.dvc", None).md5 == md5
    dvc(new, "push")
    assert backup.unpushed() == {}


def test_only_its_owner_reads_it_and_what_the_remote_has_is_left_out(used: Path, tmp_path: Path) -> None:
    dvc(used, "push")
    file = tmp_path / "backup.tar"
    found = backup.write(file, all_versions=True)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "data that was never pushed" not in found.held
    with tarfile.open(file) as tar:
        names = tar.getnames()
    assert {name.split("/")[2] for name in names if name.startswith("runs/register/")} == {16 * "1", 16 * "2"}
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == ["backup.tar"]


def test_nothing_is_overwritten(used: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    backup.write(file)
    before = (used / "runs" / "mlflow" / "mlflow.db").read_bytes()
    with pytest.raises(RunError, match=r"runs has .*mlflow.* already: move it away, then restore again"):
        backup.restore(file)
    assert (used / "runs" / "mlflow" / "mlflow.db").read_bytes() == before
    assert not (used / "runs" / ".restore").exists()


def test_half_a_backup_is_refused(used: Path, place: Callable[[Path], Path], tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    backup.write(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    (tmp_path / "new").mkdir()
    root = place(tmp_path / "new")
    with pytest.raises(RunError, match="cannot be read as a backup"):
        backup.restore(file)
    assert not list(root.glob("**/*.db"))


def test_a_database_elsewhere_is_named_without_its_password(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        os.environ, "PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://me:S3CRET@host/prefect"
    )
    (said,) = backup._left_out()
    assert "postgresql+asyncpg://me:***@host/prefect" in said


def test_a_new_checkout_has_nothing_to_back_up(clone: Path, place: Callable[[Path], Path], tmp_path: Path) -> None:  # noqa: F811
    place(clone)
    with pytest.raises(RunError, match="nothing to back up"):
        backup.write(tmp_path / "backup.tar")
