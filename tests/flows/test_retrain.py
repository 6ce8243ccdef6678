"""What a retraining would find out after hours of training it says before them."""

from pathlib import Path
from typing import Any

import mlflow
import pytest

from flows import retrain
from storyreason import config
from storyreason.generation import vllm
from tasks import tracking
from tests.storyreason.authoring import scripted


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch, mlflow_store: None) -> None:
    """No step is to begin."""

    def begun(*_: Any) -> None:
        raise AssertionError("a step began")

    monkeypatch.setattr(retrain, "_steps", begun)


def asked(until: Any, *settings: str) -> None:
    retrain.retrain.fn("smoke", until=until, overrides=list(settings))


@pytest.mark.parametrize(
    ("until", "settings"),
    [("evaluate", ()), ("gate", ()), ("deploy", ()), ("improve", ("improve.method=grpo",))],
)
def test_engines_that_cannot_start(
    never: None, monkeypatch: pytest.MonkeyPatch, until: str, settings: tuple[str, ...]
) -> None:
    monkeypatch.setattr(vllm, "gpus", lambda: 1)
    with pytest.raises(Exception, match=r"serving\.tensor_parallel=2 times serving\.data_parallel=1 needs 2 GPUs"):
        asked(until, "serving.tensor_parallel=2", *settings)
    with pytest.raises(AssertionError, match="a step began"):  # without engines, they say nothing
        asked("register", "serving.tensor_parallel=2")


def test_a_champion_that_somebody_else_registered(never: None, tmp_path: Path) -> None:
    client = mlflow.MlflowClient()
    client.create_registered_model("storyteller-smoke")
    client.create_model_version("storyteller-smoke", source=str(tmp_path))
    client.set_registered_model_alias("storyteller-smoke", "champion", "1")
    with pytest.raises(Exception, match=r"storyteller-smoke version 1"):
        asked("evaluate")
    # One of ours whose weights are gone is no fault: the same training makes them again
    tags = {f"{tracking.TAG}folder": str(tmp_path / "gone"), f"{tracking.TAG}register": "0123456789abcdef"}
    client.create_model_version("storyteller-smoke", source=str(tmp_path), tags=tags)
    client.set_registered_model_alias("storyteller-smoke", "champion", "2")
    with pytest.raises(AssertionError, match="a step began"):
        asked("evaluate")


def test_a_judge_that_is_not_there(never: None, tmp_path: Path) -> None:
    def asked_with(endpoint: str) -> None:
        """Only a preset's file may name the endpoint."""
        file = tmp_path / "smoke.yaml"
        judge = f"judge: {{endpoint: {endpoint!r}, model: judge}}\n"
        file.write_text(config.path("smoke").read_text() + judge)
        retrain.retrain.fn(str(file), until="gate", overrides=[])

    with pytest.raises(Exception, match=r"127\.0\.0\.1:9"):
        asked_with("http://127.0.0.1:9/v1")
    with (
        scripted.endpoint(models=["other"]) as endpoint,
        pytest.raises(Exception, match=r"no model 'judge', only .*: name one of them as judge\.model"),
    ):
        asked_with(endpoint.url)
