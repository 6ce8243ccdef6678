"""A rollback needs nothing but the version: without data, no story is told first."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from prefect.runtime import flow_run

from flows import deploy
from storyreason import dataset
from tasks import data, deployment, tracking
from tests.tasks.cloned import clone, origin, pushed, stories  # noqa: F401 (fixtures)

# ruff: noqa: F811 (the same as arguments)


@pytest.fixture
def back(
    clone: Path, stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: None
) -> Callable[..., tuple[str, dataset.Example]]:
    """`storyreason deploy previous` up to the gateway: the version that the gateway would get, and the first story."""
    client = mlflow.MlflowClient()
    client.create_registered_model("storyteller")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    tags = {f"{tracking.TAG}folder": str(tmp_path / "model"), f"{tracking.TAG}register": "0123456789abcdef"}
    client.create_model_version("storyteller", source=str(tmp_path), tags=tags)
    client.set_registered_model_alias("storyteller", "previous", "1")
    monkeypatch.setattr(data, "pull", data.pull.compute)
    for place in (deploy, data):
        monkeypatch.setattr(place, "get_run_logger", lambda: logging.getLogger("run"), raising=False)
    monkeypatch.setattr("storyreason.serving.client.check", lambda serving: None)
    asked: list[Any] = []
    monkeypatch.setattr(deployment, "deploy", lambda config, *what, by_hand: asked.extend(what))

    def back(**base: str) -> tuple[str, dataset.Example]:
        deploy.deploy.fn("previous", overrides=[f"base.{key}={value}" for key, value in base.items()])
        return asked[0].number, asked[1]

    return back


def without_a_remote(clone: Path) -> None:
    for place in ("store", "data", ".dvc/cache"):
        shutil.rmtree(clone / place)


def with_local_changes(clone: Path) -> None:
    (clone / "data" / "mine.txt").write_text("mine")


@pytest.mark.parametrize("change", [without_a_remote, with_local_changes])
def test_a_rollback_without_data_says_that_no_story_is_told_first(
    back: Callable[..., tuple[str, dataset.Example]],
    clone: Path,
    change: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    change(clone)
    number, probe = back()
    assert (number, probe.images) == ("1", ())
    assert "deploying without telling a test story first, because there are no data: " in caplog.text


def test_a_rollback_needs_no_base_model(back: Callable[..., tuple[str, dataset.Example]]) -> None:
    number, probe = back(name="./nothing")
    assert number == "1" and len(probe.images) > 1


def test_a_restarted_rollback_does_not_go_back_again(
    back: Callable[..., tuple[str, dataset.Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a run that was killed after it had served version 1 in place of version 2
    client = mlflow.MlflowClient()
    tags = {f"{tracking.TAG}folder": str(tmp_path / "model"), f"{tracking.TAG}register": "0123456789abcdee"}
    client.create_model_version("storyteller", source=str(tmp_path), tags=tags)
    client.set_registered_model_alias("storyteller", "previous", "2")
    served = SimpleNamespace(run_id="killed", registered="models:/storyteller/1")
    monkeypatch.setattr("storyreason.serving.client.status", lambda serving: served)
    # When it is restarted
    monkeypatch.setattr(flow_run, "get_id", lambda: "killed")
    assert back()[0] == "1"


def test_another_rollback_goes_back_again(
    back: Callable[..., tuple[str, dataset.Example]], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = SimpleNamespace(run_id="an earlier one", registered="models:/storyteller/2")
    monkeypatch.setattr("storyreason.serving.client.status", lambda serving: served)
    monkeypatch.setattr(flow_run, "get_id", lambda: "this one")
    assert back()[0] == "1"
