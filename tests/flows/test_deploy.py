"""A rollback needs nothing but the version: without data, no story is told first. A retraining does not undo it."""

import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from prefect.runtime import flow_run

from flows import deploy, retrain
from storyreason import dataset, runs
from storyreason.config import RunConfig
from tasks import cards, data, deployment, evaluation, following, gate, registry, tracking, training
from tasks.following import Move
from tasks.gate import Promotion
from tasks.pace import Clock
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


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: None) -> list[str]:
    """What is put behind the gateway. Of three registered versions, the first is the champion."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    client = mlflow.MlflowClient()
    client.create_registered_model("storyteller")
    for number in "123":
        runs.write_text(runs.root() / number / "config.json", "{}")
        tags = {f"{tracking.TAG}folder": number, f"{tracking.TAG}register": number}
        client.create_model_version("storyteller", source=str(tmp_path), tags=tags)
    client.set_registered_model_alias("storyteller", "champion", "1")
    put = ["1"]
    monkeypatch.setattr("storyreason.serving.client.check", lambda serving: None)
    monkeypatch.setattr("storyreason.serving.client.ensure_running", lambda serving: None)
    monkeypatch.setattr("storyreason.serving.client.serves", lambda serving, folder, _: Path(folder).name == put[-1])
    monkeypatch.setattr("storyreason.serving.client.deploy", lambda serving, version, **_: put.append(version))
    monkeypatch.setattr("storyreason.serving.client.url", lambda serving: "")
    monkeypatch.setattr(deployment, "deploy", deployment.deploy.fn)
    monkeypatch.setattr(deploy, "probe", lambda config: dataset.Example("none", (), "", ""))
    for place in (deploy, deployment, gate, retrain):
        monkeypatch.setattr(place, "get_run_logger", lambda: logging.getLogger("run"))
    return put


@pytest.fixture
def retraining(monkeypatch: pytest.MonkeyPatch) -> Callable[..., retrain.Outcome]:
    """A retraining of version 3: takes the gate's decision, and what happens before it deploys; gives the outcome."""
    registered = SimpleNamespace(name="storyteller", number="3")
    for place, name, answer in (
        (data, "pull_all", (None, None)),
        (data, "stories_to_tell", iter([dataset.Example("none", (), "", "")])),
        (training, "train", None),
        (registry, "register", registered),
        (evaluation, "subjects", []),
        (evaluation, "compare", None),
        (deployment, "tell", deployment.Told("", "")),
        (gate, "check_primary", None),
        (gate, "announce_held", None),
        *((cards, name, None) for name in ("data", "training", "scorecard")),
    ):
        monkeypatch.setattr(place, name, lambda *_, answer=answer: answer)

    def retraining(decision: Promotion, before_it_deploys: Callable[[], object] = lambda: None) -> retrain.Outcome:
        monkeypatch.setattr(gate, "decide", lambda *_: decision)
        outcome = retrain.Outcome()
        for step in retrain._steps(RunConfig(), outcome, Clock("sample", "deploy", {})):
            if step == "gate":
                before_it_deploys()
        return outcome

    return retraining


def test_a_retraining_that_meets_a_rollback_does_not_undo_it(
    put: list[str],
    retraining: Callable[..., retrain.Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, met, done = threading.Event(), threading.Event(), threading.Event()

    def slowly(serving: Any, version: str, **_: Any) -> None:
        begun.set()
        if version == "2":  # until the retraining waits, or does not
            assert met.wait(60)
        else:
            met.set()
            assert done.wait(60)
        put.append(version)

    def by_hand() -> None:
        deploy.deploy.fn("2")
        done.set()

    monkeypatch.setattr("storyreason.serving.client.deploy", slowly)
    monkeypatch.setattr(logging.getLogger("run"), "info", lambda said, *what: met.set() if "waiting" in said else None)
    with ThreadPoolExecutor(1) as pool:
        outcome = retraining(Promotion(True, "box F1 rose by 0.1"), lambda: (pool.submit(by_hand), begun.wait(60)))

    assert registry.aliases("storyteller") == {"champion": "2", "previous": "1"} and put == ["1", "2"]
    assert outcome.promotion == Promotion(
        False, "the champion changed during this run, from version 1 to version 2: run it again"
    )
    assert registry.tags_of(registry.version("storyteller", "1"))["taken_down"] == "for version 2"


def test_a_version_that_became_the_champion_meanwhile_is_promoted_all_the_same(
    put: list[str], retraining: Callable[..., retrain.Outcome]
) -> None:
    """By another run with these settings, for example."""
    promoted = Promotion(True, "box F1 rose by 0.1")
    outcome = retraining(promoted, lambda: registry.move_champion(registry.version("storyteller", "3")))
    assert outcome.promotion == promoted and put == ["1", "3"]
    assert registry.aliases("storyteller") == {"champion": "3", "previous": "1"}


def test_a_retraining_does_not_serve_a_version_that_waits_for_approval(
    put: list[str], retraining: Callable[..., retrain.Outcome]
) -> None:
    assert following.look(RunConfig()) is None
    mlflow.MlflowClient().set_registered_model_alias("storyteller", "champion", "2")  # as MLflow's page does it
    assert following.look(RunConfig()) == Move("storyteller", "2", "1")

    held = Promotion(False, "box F1 fell")
    assert retraining(held).promotion == held

    assert put == ["1"] and registry.aliases("storyteller") == {"champion": "2"}
    following.undo(Move("storyteller", "2", "1"), "Version 2 was not approved.")
    assert registry.aliases("storyteller") == {"champion": "1"}


def test_a_version_that_was_approved_is_what_a_retraining_serves(
    put: list[str], retraining: Callable[..., retrain.Outcome]
) -> None:
    following.look(RunConfig())
    mlflow.MlflowClient().set_registered_model_alias("storyteller", "champion", "2")
    following.look(RunConfig())
    deploy.deploy.fn("2")  # as `follow` does it after the answer
    retraining(Promotion(False, "box F1 fell"))
    assert put == ["1", "2"] and registry.aliases("storyteller")["champion"] == "2"
