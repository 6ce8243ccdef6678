"""A backup holds what cannot be made again, and is restored at another path, where everything is found again."""

import shutil
import sqlite3
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from storyreason import runs
from storyreason.errors import RunError
from storyreason.serving import state
from tasks import backup, registry, tracking, upgrading, versioning
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

    for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_API_DATABASE_CONNECTION_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("STORYREASON_MLFLOW_ARTIFACTS", "STORYREASON_ARTIFACTS"):
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


def test_its_runs_are_where_the_settings_that_come_back_say(
    used: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (used / ".env").write_text("STORYREASON_RUNS=state\n")
    backup.write(tmp_path / "backup.tar")
    new = tmp_path / "other"
    (new / "deploy" / "presets").mkdir(parents=True)
    (new / "storyreason").mkdir()
    (new / "storyreason" / "home.py").touch()
    dvc(new, "init", "--no-scm")
    for name in ("STORYREASON_RUNS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name)
    program = Path(sys.executable).with_name("storyreason")

    subprocess.run([program, "restore", tmp_path / "backup.tar"], cwd=new, check=True)

    assert (new / ".env").read_text() == "STORYREASON_RUNS=state\n"
    assert (new / "state" / "mlflow" / "mlflow.db").is_file() and not (new / "runs").exists()


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


def _on_servers(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both databases are on a server; what MLflow's holds is asked for as it is there."""
    at = Path(shutil.move(used / "runs" / "mlflow" / "mlflow.db", used.parent / "on-a-server.db"))
    client = MlflowClient(f"sqlite:///{at}")
    for asking in (registry, tracking):
        monkeypatch.setattr(asking, "client", lambda: client)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+pg8000://me:S3CRET@host/mlflow")
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://me:S3CRET@host/prefect")
    (used / "runs" / "prefect" / "prefect.db").unlink()


def test_databases_on_servers_are_named_and_the_weights_of_their_versions_are_in_it(
    used: Path, place: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "backup.tar"
    _on_servers(used, monkeypatch)
    found = backup.write(file)

    named = [
        "MLFLOW_TRACKING_URI = postgresql+pg8000://me:***@host/mlflow",
        "PREFECT_API_DATABASE_CONNECTION_URL = postgresql+asyncpg://me:***@host/prefect",
    ]
    assert found.left_out == named and "databases" not in found.held
    with tarfile.open(file) as tar:
        names = set(tar.getnames())
    assert {f"runs/register/{16 * '1'}/model/model.safetensors", f"runs/train/{16 * '1'}/result/adapter"} <= names

    (tmp_path / "new").mkdir()
    root = place(tmp_path / "new")
    monkeypatch.setattr(backup, "_restore_objects", lambda folder: 0)  # not a clone
    assert backup.restore(file) == [f"the backup does not hold {one}" for one in named]
    assert (root / "register" / (16 * "1") / "model" / "model.safetensors").is_file()


def test_a_checkout_without_runs_has_settings_to_back_up(
    used: Path, place: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "backup.tar"
    monkeypatch.setattr(registry, "models", list)
    _on_servers(used, monkeypatch)
    shutil.rmtree(used / "runs")
    assert list(backup.write(file).held) == ["settings", "data that was never pushed"]

    (tmp_path / "new").mkdir()
    place(tmp_path / "new")
    monkeypatch.setattr(backup, "_restore_objects", lambda folder: 0)
    backup.restore(file)
    assert (tmp_path / "new" / ".env").read_text() == "STORYREASON_CRON=0 5 * * 1\n"


def test_what_is_elsewhere_on_the_disks_is_named(used: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.move(used / "runs" / "mlflow" / "mlflow.db", tmp_path / "x.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/x.db")
    monkeypatch.setenv("STORYREASON_MLFLOW_ARTIFACTS", "/srv/mlflow")
    monkeypatch.setenv("PREFECT_HOME", "/srv/prefect")
    found = backup.write(tmp_path / "backup.tar")
    assert "versions" in found.held
    assert found.left_out == [
        f"MLFLOW_TRACKING_URI = sqlite:///{tmp_path}/x.db",
        "PREFECT_HOME = sqlite:////srv/prefect/prefect.db",
        "STORYREASON_MLFLOW_ARTIFACTS = /srv/mlflow",
    ]


def test_artifacts_are_where_mlflow_says_whatever_is_set_now(
    clone: Path,  # noqa: F811
    place: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    place(clone)
    monkeypatch.setenv("STORYREASON_MLFLOW_ARTIFACTS", "s3://bucket/mlflow")
    tracking.experiment()
    monkeypatch.delenv("STORYREASON_MLFLOW_ARTIFACTS")
    assert backup.write(tmp_path / "backup.tar").left_out == ["MLflow's artifacts in s3://bucket/mlflow"]


def test_weights_that_are_not_here_are_named(used: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STORYREASON_ARTIFACTS", "s3://me:S3CRET@bucket/models")
    shutil.rmtree(used / "runs" / "register")
    MlflowClient().set_model_version_tag("storyteller", "1", "storyreason.artifact", "0f0f.dir 100")
    of_first = "weights of storyteller version 1, which are only in s3://me:***@bucket/models"
    assert backup.write(tmp_path / "backup.tar").left_out == [of_first]
    found = backup.write(tmp_path / "backup.tar", all_versions=True)
    assert sorted(found.left_out) == [
        of_first,
        "weights of storyteller version 2, which are gone, or on the machine that registered them",
    ]
    assert "back up where it is what is not in it" in backup.report(found, tmp_path / "backup.tar")


def test_files_that_go_away_meanwhile_are_counted(used: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    partial = runs.work_folder("evaluate", "0" * 16) / "free.jsonl.partial"
    partial.write_text("{}")
    save = upgrading.save

    def ends_the_evaluation(database: Path, copy: Path) -> None:
        save(database, copy)
        partial.unlink(missing_ok=True)

    monkeypatch.setattr(upgrading, "save", ends_the_evaluation)
    found = backup.write(tmp_path / "backup.tar")
    name = f"runs/evaluate/{'0' * 16}/free.jsonl.partial"
    assert found.vanished == [name]
    assert f"1 file went away while it was written: {name}" in backup.report(found, tmp_path / "backup.tar")
    with tarfile.open(tmp_path / "backup.tar") as tar:
        assert "checkout/.env" in tar.getnames()  # it is whole


def test_a_new_checkout_has_nothing_to_back_up(clone: Path, place: Callable[[Path], Path], tmp_path: Path) -> None:  # noqa: F811
    place(clone)
    with pytest.raises(RunError, match="nothing to back up"):
        backup.write(tmp_path / "backup.tar")


def test_dvc_files_that_git_does_not_have_are_found_by_any_name(clone: Path) -> None:  # noqa: F811
    (clone / "älter films.dvc").write_text("outs: []\n")
    (clone / "data.dvc").unlink()  # which is no file to keep

    assert backup._changed_dvc_files() == [clone / "älter films.dvc"]
