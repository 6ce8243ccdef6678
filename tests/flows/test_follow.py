"""The flow that a move of the champion in MLflow starts, up to the gateway; and the loop that starts it."""

import logging
import threading
from pathlib import Path
from typing import Any

import mlflow
import pytest

from flows import deploy, follow
from storyreason import config, dataset
from storyreason.errors import GatewayError, RegistryError
from storyreason.serving import state
from tasks import approval, deployment, following, gate, registry, settings, tracking
from tasks.following import Move

MODEL = "storyteller-smoke"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: None) -> mlflow.MlflowClient:
    """Two versions with weights. Somebody has just made the second one the champion."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    client = mlflow.MlflowClient()
    client.create_registered_model(MODEL)
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "config.json").write_text("{}")
        tags = {f"{tracking.TAG}folder": str(tmp_path / number), f"{tracking.TAG}register": number * 16}
        client.create_model_version(MODEL, source=str(tmp_path), tags=tags)
    client.set_registered_model_alias(MODEL, "champion", "2")
    monkeypatch.setattr(follow, "get_run_logger", lambda: logging.getLogger("run"))
    monkeypatch.setattr("storyreason.serving.client.check", lambda serving: None)
    monkeypatch.setattr(deploy, "probe", lambda config: dataset.Example("none", (), "", ""))
    monkeypatch.setattr(gate, "announce_held", lambda *what: None)
    return client


def deployed(monkeypatch: pytest.MonkeyPatch, fault: str | None = None) -> list[str]:
    """The versions that are put behind the gateway, which may refuse them."""
    asked: list[str] = []

    def put(
        config: Any, version: registry.Version, probe: Any, by_hand: bool = False, moves_champion: bool = True
    ) -> str:
        asked.append(version.number)
        if fault and by_hand:
            raise GatewayError(fault)
        if moves_champion:
            registry.move_champion(version, by_hand)
        return "served"

    monkeypatch.setattr(deployment, "deploy", put)
    return asked


def test_the_version_is_deployed_and_the_one_before_is_previous(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = deployed(monkeypatch)
    follow.follow.fn(MODEL, "2", "1", "smoke")
    assert asked == ["2"] and registry.aliases(MODEL) == {"champion": "2", "previous": "1"}
    assert "storyreason.taken_down" in client.get_model_version(MODEL, "1").tags
    assert "champion_moved" in registry.tags_of(registry.version(MODEL, "2"))


def test_one_that_fails_is_taken_back(client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(monkeypatch, "Version 2 was not deployed. Its story cannot be read.")
    with pytest.raises(GatewayError):
        follow.follow.fn(MODEL, "2", "1", "smoke")
    assert registry.aliases(MODEL) == {"champion": "1"}
    assert registry.tags_of(registry.version(MODEL, "2"))["champion_refused"].endswith("Its story cannot be read.")


def test_when_it_is_served_already_the_one_before_is_served_again(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `storyreason deploy champion`, or because MLflow failed after the gateway had taken it."""
    asked = deployed(monkeypatch, "MLflow's server does not answer.")
    served = state.Served("folder", "2", None, "", registered=f"models:/{MODEL}/2")
    state.write_served(served, config.load("smoke").serving.gateway)
    with pytest.raises(GatewayError):
        follow.follow.fn(MODEL, "2", "1", "smoke")
    assert asked == ["2", "1"] and registry.aliases(MODEL) == {"champion": "1"}


def test_one_without_weights_that_nobody_registered_by_a_retraining_is_taken_back(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = deployed(monkeypatch)
    client.create_model_version(MODEL, source="elsewhere")
    client.set_registered_model_alias(MODEL, "champion", "3")
    with pytest.raises(RegistryError, match="was not registered by a retraining"):
        follow.follow.fn(MODEL, "3", "1", "smoke")
    assert not asked and registry.aliases(MODEL) == {"champion": "1"}


@pytest.mark.parametrize("granted", [True, False])
def test_the_presets_approval_is_asked_for(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, granted: bool, tmp_path: Path
) -> None:
    asked = deployed(monkeypatch)
    preset = tmp_path / "asking.yaml"
    preset.write_text(f"name: smoke\nmodel: {MODEL}\ngate: {{approval: ask}}\n")
    reports: list[str] = []

    def ask(config: Any, version: registry.Version, report: str) -> tuple[bool, str]:
        reports.append(report)
        return granted, "the answer to the request for approval"

    monkeypatch.setattr(approval, "ask", ask)
    if granted:
        follow.follow.fn(MODEL, "2", "1", str(preset))
    else:
        with pytest.raises(RegistryError, match="Version 2 was not approved: the answer"):
            follow.follow.fn(MODEL, "2", "1", str(preset))
    assert "made version 2 of storyteller-smoke the champion" in reports[0]
    assert asked == (["2"] if granted else []) and registry.aliases(MODEL)["champion"] == ("2" if granted else "1")


def test_the_loop_starts_each_move_once_and_survives_what_is_away(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "EVERY", 0.02)
    monkeypatch.setattr(follow, "PAUSE", 0.02)
    faults = [ConnectionError("Prefect's server restarts")]
    started: list[Move] = []
    both = threading.Event()

    def start(move: Move) -> None:
        if faults:
            raise faults.pop()
        started.append(move)
        if len(started) == 1:
            client.set_registered_model_alias(MODEL, "champion", "2")
        else:
            both.set()

    following.seen(MODEL, "2")
    client.set_registered_model_alias(MODEL, "champion", "1")
    chosen = settings.Settings(preset="smoke")
    ending = threading.Event()
    loop = threading.Thread(target=follow.watch, args=(chosen, start, ending))
    loop.start()
    try:
        assert both.wait(60)
    finally:
        ending.set()
        loop.join()
    assert started == [Move(MODEL, "1", "2"), Move(MODEL, "2", "1")]
