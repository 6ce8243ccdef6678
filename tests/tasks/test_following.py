"""Which moves of the champion are somebody's, and which are our own."""

import mlflow
import pytest

from storyreason import config, runs
from storyreason.config import RunConfig
from storyreason.serving import state
from tasks import following, gate, registry, waiting
from tasks.following import Move

MODEL = "storyteller-smoke"


@pytest.fixture
def client(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, mlflow_store: None
) -> mlflow.MlflowClient:
    """MLflow with three versions, of which the first is the champion."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path_factory.mktemp("runs")))
    client = mlflow.MlflowClient()
    client.create_registered_model(MODEL)
    for _ in range(3):
        client.create_model_version(MODEL, source="somewhere")
    move(client, "1")
    return client


@pytest.fixture
def chosen() -> RunConfig:
    return config.load("smoke")


def move(client: mlflow.MlflowClient, number: str) -> None:
    """As MLflow's page does it."""
    client.set_registered_model_alias(MODEL, "champion", number)


def serve(chosen: RunConfig, number: str) -> None:
    served = state.Served("folder", number, None, "", registered=f"models:/{MODEL}/{number}")
    state.write_served(served, chosen.serving.gateway)


def test_a_move_is_seen_once_also_one_that_was_made_while_nobody_looked(
    client: mlflow.MlflowClient, chosen: RunConfig
) -> None:
    assert following.look(chosen) is None  # the first champion that is seen is what it is
    move(client, "2")
    assert following.look(chosen) == following.look(chosen) == Move(MODEL, "2", "1")
    following.seen(MODEL, "2")
    assert following.look(chosen) is None
    client.delete_registered_model_alias(MODEL, "champion")
    assert following.look(chosen) is None
    move(client, "1")
    assert following.look(chosen) == Move(MODEL, "1", "2")


def test_while_a_move_waits_the_next_one_is_in_place_of_what_is_served(
    client: mlflow.MlflowClient, chosen: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "announce_held", lambda *what: None)
    serve(chosen, "1")
    following.look(chosen)
    for number in ("2", "3"):
        move(client, number)
        assert following.look(chosen) == Move(MODEL, number, "1")
        following.seen(MODEL, number)
    following.undo(Move(MODEL, "2", "1"), "not approved")  # somebody was faster: 3 waits all the same
    assert (waiting.before(MODEL, "2"), waiting.before(MODEL, "3")) == (None, "1")
    following.undo(Move(MODEL, "3", "1"), "not approved")
    assert waiting.before(MODEL, "3") is None


def test_our_own_move_is_not_somebodys(client: mlflow.MlflowClient, chosen: RunConfig) -> None:
    serve(chosen, "1")
    assert following.look(chosen) is None
    serve(chosen, "2")  # a deployment: first the gateway, then the alias
    assert following.look(chosen) is None
    move(client, "2")
    assert following.look(chosen) is None
    move(client, "1")
    assert following.look(chosen) == Move(MODEL, "1", "2")


def test_a_file_that_is_damaged_starts_nothing(client: mlflow.MlflowClient, chosen: RunConfig) -> None:
    (runs.root() / following.FILE).write_text("[")
    assert following.look(chosen) is None
    move(client, "3")
    assert following.look(chosen) == Move(MODEL, "3", "1")


def test_a_version_that_fails_is_answered_by_moving_the_alias_back_a_tag_and_a_notification(
    client: mlflow.MlflowClient, chosen: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str, str]] = []
    monkeypatch.setattr(gate, "announce_held", lambda *what: told.append(what))
    following.look(chosen)
    move(client, "2")
    (moved,) = [found for found in [following.look(chosen)] if found]
    following.seen(moved.model, moved.number)
    following.note(moved)
    following.undo(moved, "its story cannot be read")
    assert registry.number_of(MODEL, "champion") == "1"
    tags = client.get_model_version(MODEL, "2").tags
    assert tags["storyreason.champion_refused"] == "its story cannot be read"
    assert tags["storyreason.champion_moved"].startswith(
        "in MLflow, in place of version 1, by somebody whom MLflow does not"
    )
    assert told == [(MODEL, "2", "its story cannot be read")]
    assert following.look(chosen) is None  # moving it back is no move of somebody
    # Somebody who was faster wins
    move(client, "3")
    following.undo(Move(MODEL, "2", "1"), "again")
    assert registry.number_of(MODEL, "champion") == "3" and following.look(chosen) == Move(MODEL, "3", "1")
