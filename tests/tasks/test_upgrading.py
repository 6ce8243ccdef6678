"""Databases that older versions of Prefect and MLflow made are copied, then migrated; newer ones are refused."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from mlflow import MlflowClient
from sqlalchemy import create_engine

from storyreason import runs
from storyreason.errors import RunError
from tasks import upgrading


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    (tmp_path / "prefect").mkdir()
    (tmp_path / "mlflow").mkdir()
    return runs.root()


def package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def scripts(name: str) -> ScriptDirectory:
    """The migrations of a package as Alembic loads them."""
    folder = package(upgrading.MIGRATIONS[name][0]) / upgrading.MIGRATIONS[name][1]
    above = folder.parent if folder.parent.name != "versions" else folder.parents[1]
    return ScriptDirectory(str(above), version_locations=[str(folder)])


def before(name: str) -> str:
    """The revision before the newest one."""
    newest = scripts(name).get_revision("head")
    assert newest is not None and isinstance(newest.down_revision, str)
    return newest.down_revision


def say(database: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as connection, connection:
        return connection.execute(statement).fetchall()


@pytest.fixture
def old_mlflow(root: Path) -> Path:
    """MLflow's database as its version before the last migration made it, with an experiment."""
    from mlflow.store.tracking.dbmodels.initial_models import Base

    url = os.environ["MLFLOW_TRACKING_URI"]
    Base.metadata.create_all(create_engine(url))
    config = Config()
    config.set_main_option("script_location", str(package("mlflow") / "store" / "db_migrations"))
    config.set_main_option("sqlalchemy.url", url)
    command.upgrade(config, before("MLflow"))
    database = root / "mlflow" / "mlflow.db"
    say(database, "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'storyteller', 'active')")
    return database


@pytest.mark.parametrize("name", ["Prefect", "MLflow"])
def test_the_newest_revision_is_alembics(name: str) -> None:
    newest, known = upgrading.revisions(*upgrading.MIGRATIONS[name])
    found = scripts(name)
    assert newest == found.get_current_head()
    assert known == {one.revision for one in found.walk_revisions()}


def test_without_databases_there_is_nothing_to_migrate(root: Path) -> None:
    said: list[str] = []
    upgrading.migrate(said.append)
    assert said == [] and not (root / "backups").exists()


@pytest.mark.server
def test_an_old_database_of_mlflow_is_copied_and_migrated(old_mlflow: Path) -> None:
    said: list[str] = []

    upgrading.migrate(said.append)

    (copy,) = (runs.root() / "backups").iterdir()
    assert said == [f"MLflow's database was made by an older version: it is migrated now, and a copy of it is {copy}"]
    assert say(copy, "SELECT version_num FROM alembic_version") == [(before("MLflow"),)]
    assert say(copy, "SELECT experiment_id FROM experiments WHERE name = 'storyteller'") == [(7,)]
    experiment = MlflowClient().get_experiment_by_name("storyteller")
    assert experiment is not None and experiment.experiment_id == "7"
    assert list(upgrading.outdated()) == []


@pytest.mark.server
def test_mlflows_own_refusal_of_an_old_database_is_one_sentence(root: Path) -> None:
    MlflowClient().search_experiments()
    say(root / "mlflow" / "mlflow.db", f"UPDATE alembic_version SET version_num = '{before('MLflow')}'")
    create_engine(os.environ["MLFLOW_TRACKING_URI"]).dispose()
    code = "from tasks import registry; registry.alias('storyteller', 'champion')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "RegistryError: MLflow's database was made by an older version: `storyreason up` migrates it" in done.stderr


def test_while_a_flow_runs_its_databases_are_left_alone(old_mlflow: Path) -> None:
    with runs.lock(Path(os.environ["PREFECT_HOME"])):
        upgrading.migrate(lambda _: None)
    assert say(old_mlflow, "SELECT version_num FROM alembic_version") == [(before("MLflow"),)]


def test_a_database_of_a_newer_version_is_refused_and_left_alone(old_mlflow: Path) -> None:
    say(old_mlflow, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(RunError, match=r"MLflow's database .* was made by a newer version .* `make install`"):
        upgrading.migrate(lambda _: None)
    assert not (runs.root() / "backups").exists()


@pytest.mark.server
def test_a_migration_that_fails_names_the_copy(old_mlflow: Path) -> None:
    say(old_mlflow, "DROP TABLE experiments")  # what the last migration changes, or MLflow looks at afterwards
    say(old_mlflow, f"UPDATE alembic_version SET version_num = '{first('MLflow')}'")
    with pytest.raises(RunError, match=r"could not be migrated: .* Put back the copy \(.*/backups/mlflow-.*\.db\)"):
        upgrading.migrate(lambda _: None)


def first(name: str) -> str:
    (base,) = scripts(name).get_bases()
    return base


@pytest.mark.server
def test_an_old_database_of_prefect_is_copied_and_migrated(root: Path) -> None:
    make = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y", "-r", before("Prefect")]
    subprocess.run(make, check=True, capture_output=True)
    database = root / "prefect" / "prefect.db"
    assert [one.name for one in upgrading.outdated()] == ["Prefect"]

    upgrading.migrate(lambda _: None)

    (copy,) = (root / "backups").iterdir()
    assert say(copy, "SELECT version_num FROM alembic_version") == [(before("Prefect"),)]
    assert say(database, "SELECT version_num FROM alembic_version") == [(scripts("Prefect").get_current_head(),)]


@pytest.mark.parametrize(
    "address", ["databricks", "file:///tmp/runs", "runs", "postgresql+psycopg2://nobody@nowhere/db"]
)
def test_an_address_that_is_no_known_databases_is_left_to_who_uses_it(
    address: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert list(upgrading.outdated()) == []
