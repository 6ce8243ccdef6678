"""Data and artifacts on S3, against a server of S3's API on this machine."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.states import Failed

from storyreason import dataset, sample
from storyreason.config import DataConfig
from storyreason.errors import DataError
from tasks import data, tracking
from tasks.faults import from_outside
from tests.stores import S3, s3
from tests.tasks.cloned import commit, dvc, pull, run

REMOTE = "far (s3://storyreason/data)"
CONFIG = """[core]
    remote = far
['remote "far"']
    url = s3://storyreason/data
    endpointurl = {url}
    verify = true
"""


@pytest.fixture(scope="module")
def store() -> Iterator[S3]:
    with s3() as store, pytest.MonkeyPatch.context() as patch:
        # tried once, and nobody else is asked for credentials: what fails here fails at once
        for name, value in {**store.environment, "AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(name, value)
        yield store


@pytest.fixture(scope="module")
def origin(store: S3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose data (two stories to train on, one to test) belongs on S3, and `new` beside it with two more."""
    origin = tmp_path_factory.mktemp("s3") / "origin"
    origin.mkdir()
    run(origin, "git", "init", "-q")
    dvc(origin, "init")
    (origin / ".dvc" / "config").write_text(CONFIG.format(url=store.url))
    train, test = list(sample.examples("train", films=2)), list(sample.examples("test", films=1))
    for split, examples in (("train", train[:2]), ("test", test)):
        dataset.write(examples, origin / "data", split)
    dataset.write(train[2:], origin.with_name("new"), "train")
    dvc(origin, "add", "data")
    commit(origin, "data")
    return origin


@pytest.fixture(scope="module")
def added(origin: Path) -> str:
    """The report of `storyreason data add` in the project."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(origin)
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("STORYREASON_RUNS", str(origin.with_name("runs")))
        said = data.change("data.dvc", str(origin.with_name("new")), dataset.append)
    commit(origin, "more data")
    return said


@pytest.fixture
def clone(origin: Path, added: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another person's clone: the files that Git tracks, without the data."""
    shutil.copytree(origin, tmp_path / "clone", ignore=shutil.ignore_patterns("cache", "tmp", "data"))
    monkeypatch.chdir(tmp_path / "clone")
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    return tmp_path / "clone"


def test_data_added_here_is_pulled_from_s3_by_a_clone(added: str, clone: Path, store: S3) -> None:
    assert "train: 2 -> 4 stories, 2 added" in added
    assert f"is pushed to {REMOTE}" in added
    assert store.names("data/files/md5/")
    files = pull(DataConfig())
    assert len(dataset.load(clone / "data", "train")) == 4
    assert pull(DataConfig(rev="HEAD")) == files


@pytest.mark.parametrize("rev", [None, "HEAD"])
def test_an_unreachable_s3_is_named_and_retried(clone: Path, rev: str | None) -> None:
    config = (clone / ".dvc" / "config").read_text()
    (clone / ".dvc" / "config").write_text(re.sub(r"127.0.0.1:\d+", "127.0.0.1:9", config))
    asked = re.escape(f"The DVC remote {REMOTE} cannot be reached: Could not connect")
    with pytest.raises(DataError, match=f"{asked}.* Start again when it answers") as refused:
        pull(DataConfig(rev=rev))
    assert from_outside(None, None, Failed(data=refused.value))


def test_missing_credentials_are_named(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", str(clone))
    with pytest.raises(DataError, match=r"Unable to locate credentials\. Start again .* your credentials"):
        pull(DataConfig())


def test_a_push_that_fails_says_what_is_left_to_do(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pull(DataConfig())
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", str(clone))
    dataset.write(list(sample.examples("train", films=3))[4:], clone.with_name("more"), "train")
    with pytest.raises(DataError, match=r"nothing was changed: .*locate credentials\. Start again"):
        data.change("data.dvc", str(clone.with_name("more")), dataset.append)


def test_a_corrupt_object_on_s3_is_never_accepted(clone: Path, store: S3) -> None:
    broken = next(name for name in store.names("data/") if not name.endswith(".dir"))
    store.put(broken, b"something else")
    with pytest.raises(DataError, match="corrupt"):
        pull(DataConfig())


def test_mlflows_artifacts_are_stored_on_s3(
    store: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: None
) -> None:
    monkeypatch.setenv("STORYREASON_MLFLOW_ARTIFACTS", "s3://storyreason/mlflow")

    run_id = tracking.open_run("evaluate", "f" * 16, name="base", parameters={}, tags={})
    tracking.log_table(run_id, [{"story_id": "a-1", "f1": 0.5}], "free/stories.json")

    (name,) = store.names("mlflow/")
    assert name == f"mlflow/{run_id}/artifacts/free/stories.json"
    fetched = tracking.client().download_artifacts(run_id, "free/stories.json", str(tmp_path))
    assert "a-1" in Path(fetched).read_text()
