"""Runs in MLflow: their inputs, and where they come from."""

import subprocess
from pathlib import Path

import mlflow
import pytest

from tasks import tracking
from tasks.results import Pulled

COMMIT = f"{tracking.TAG}git_commit"


def test_a_split_of_the_data_is_an_input_of_a_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: None
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    client = mlflow.MlflowClient()
    run_id = client.create_run(tracking.experiment()).info.run_id
    data = Pulled(files=("data",), md5="0123456789abcdef", rev="v1", card="", faulty_test_stories={})

    for split in ("train", "test", "train"):
        tracking.log_data(run_id, "data.dvc", data, split)

    found = client.get_run(run_id).inputs
    assert found is not None
    inputs = found.dataset_inputs
    assert sorted(one.dataset.name for one in inputs) == ["data test", "data train"]
    assert {one.dataset.digest for one in inputs} == {"01234567"}
    assert '"dvc.md5": "0123456789abcdef"' in inputs[0].dataset.source
    assert sorted(tag.value for one in inputs for tag in one.tags) == ["test", "train"]


def test_the_commit_is_a_tag_and_says_whether_files_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for arguments in (("init", "-q"), (*author, "commit", "-q", "--allow-empty", "-m", "first")):
        subprocess.run(["git", *arguments], check=True)
    clean = tracking.lineage()[COMMIT]
    (tmp_path / "new.py").touch()

    assert len(clean) == 40
    assert tracking.lineage()[COMMIT] == f"{clean}+changes"


@pytest.mark.parametrize("missing", ["repository", "commits", "git"])
def test_without_a_commit_the_tag_is_empty(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if missing == "commits":
        subprocess.run(["git", "init", "-q"], check=True)
        (tmp_path / "new.py").touch()
    if missing == "git":  # as in an image
        monkeypatch.setenv("PATH", str(tmp_path))

    assert tracking.lineage(preset="smoke") == {
        COMMIT: "",
        f"{tracking.TAG}prefect_run": "",
        f"{tracking.TAG}preset": "smoke",
    }
