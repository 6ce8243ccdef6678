"""The platform of one checkout with a cluster's stores: PostgreSQL for Prefect and MLflow, S3 for artifacts."""

import os
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tasks import tracking
from tests.stores import PASSWORD, S3, Postgres, postgres, s3
from tests.system.conftest import Platform, clone, free_port

pytestmark = [pytest.mark.server, pytest.mark.long]


@pytest.fixture(scope="module")
def store() -> Iterator[S3]:
    with s3() as store:
        yield store


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres("prefect", "mlflow") as database:
        yield database


@pytest.fixture(scope="module")
def grown(database: Postgres, store: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """`storyreason up` with the settings that docs/operations.md names, and nothing else changed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    ports = {f"STORYREASON_{part}_PORT": str(free_port()) for part in ("PREFECT", "MLFLOW", "GATEWAY")}
    project = clone(
        tmp_path_factory.mktemp("grown") / "project",
        {**kept, **ports, **store.environment, "STORYREASON_PRESET": "smoke", "OMP_NUM_THREADS": "1"},
    )
    (project.folder / ".env").write_text(
        f"PREFECT_API_DATABASE_CONNECTION_URL={database.url('asyncpg', 'prefect')}\n"
        f"STORYREASON_MLFLOW_STORE={database.url('pg8000', 'mlflow')}\n"
        "STORYREASON_MLFLOW_ARTIFACTS=s3://storyreason/mlflow\n"
    )
    platform = Platform(project)
    project.run("up")
    yield platform
    platform.client.close()
    project.run("down")
    assert platform.marked() == []


def test_a_retraining_and_its_version_are_in_postgresql(grown: Platform, database: Postgres) -> None:
    run = grown.start({"overrides": ["training.max_steps=2"], "until": "register"})
    grown.wait_until_complete(run["id"])

    assert database.ask(f"SELECT state_type FROM flow_run WHERE id = '{run['id']}'", "prefect") == [["COMPLETED"]]
    assert database.ask("SELECT name, version FROM model_versions", "mlflow") == [["storyteller-smoke", 1]]
    losses = database.ask("SELECT step FROM metrics WHERE key = 'train/loss' ORDER BY step", "mlflow")
    assert losses == [[1], [2]]
    assert not list(grown.project.runs.rglob("*.db"))


def test_no_command_line_and_no_log_shows_a_password(grown: Platform) -> None:
    lines = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
    assert any("mlflow" in line for line in lines)
    assert [line for line in lines if PASSWORD in line] == []
    files = [path for path in grown.project.runs.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []


def test_mlflows_server_shows_a_runs_artifacts_on_s3(
    grown: Platform, database: Postgres, store: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database.url("pg8000", "mlflow"))
    monkeypatch.setenv("STORYREASON_MLFLOW_ARTIFACTS", "s3://storyreason/mlflow")
    run_id = tracking.open_run("evaluate", "f" * 16, name="base", parameters={}, tags={})
    tracking.log_table(run_id, [{"story_id": "a-1", "f1": 0.5}], "free/stories.json")

    where = {"run_uuid": run_id, "path": "free/stories.json"}
    shown = httpx.get(f"{grown.url('MLFLOW')}/get-artifact", params=where, timeout=300, trust_env=False)

    assert "a-1" in shown.text
    assert f"mlflow/{run_id}/artifacts/free/stories.json" in store.names("mlflow/")
