"""What a retraining comes to where others were at work meanwhile."""

from pathlib import Path

import mlflow
import pytest
from prefect.logging import disable_run_logger

from flows.retrain import Outcome, _to_serve
from storyreason.config import RunConfig
from tasks import evaluation, registry


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, registry.Version]:
    """Three registered versions, of which the first is the champion."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = mlflow.MlflowClient()
    client.create_registered_model("storyteller")
    for number in "123":
        tags = {f"{registry.TAG}folder": number, f"{registry.TAG}register": number}
        client.create_model_version("storyteller", source=str(tmp_path), tags=tags)
    found = {number: registry.version("storyteller", number) for number in "123"}
    registry.move_champion(found["1"])
    return found


def test_a_champion_that_changed_during_the_run_stays(
    versions: dict[str, registry.Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[registry.Version, str]] = []
    monkeypatch.setattr(evaluation, "announce_held", lambda *what: told.append(what))
    config, outcome = RunConfig(), Outcome(promoted=True, reason="box F1 rose by 0.1")
    registry.move_champion(versions["2"])  # by a person, or by another run

    with disable_run_logger():
        served = _to_serve(config, outcome, versions["3"], champion=versions["1"])

    assert served == versions["2"]
    assert outcome.promoted is False
    assert "the champion changed during this run, from version 1 to version 2: run it again" in outcome.reason
    assert told == [(versions["3"], outcome.reason)]


def test_the_challenger_takes_the_place_of_the_champion_that_it_was_compared_with(
    versions: dict[str, registry.Version],
) -> None:
    outcome = Outcome(promoted=True)
    assert _to_serve(RunConfig(), outcome, versions["3"], champion=versions["1"]) == versions["3"]
    assert outcome.promoted is True


def test_what_was_not_promoted_leaves_the_champion_of_now(versions: dict[str, registry.Version]) -> None:
    registry.move_champion(versions["2"])
    assert _to_serve(RunConfig(), Outcome(), versions["3"], champion=versions["1"]) == versions["2"]
