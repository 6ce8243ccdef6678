"""Aliases: none yet is an answer, a registry that cannot be asked is not."""

from pathlib import Path

import mlflow
import pytest

from storyreason.errors import RegistryError
from tasks import registry


def test_no_champion_yet_is_none_with_and_without_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert registry.alias("storyteller", "champion") is None
    mlflow.MlflowClient().create_registered_model("storyteller")
    assert registry.alias("storyteller", "champion") is None
    with pytest.raises(RegistryError, match="champion"):
        registry.version("storyteller", "champion")


def test_a_registry_that_is_away_is_not_taken_for_one_without_a_champion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError):
        registry.alias("storyteller", "champion")
