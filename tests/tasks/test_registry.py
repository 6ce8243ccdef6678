"""Aliases: no champion yet is an answer; an unreachable registry is an error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from prefect.states import Failed
from typer.testing import CliRunner

from flows.cli import app, registered
from storyreason.errors import RegistryError
from tasks import cleaning, registry, tracking
from tasks.faults import from_outside
from tasks.results import Trained


def test_no_champion_yet_is_none_with_and_without_the_model(mlflow_store: None) -> None:
    assert registry.alias("storyteller", "champion") is None
    mlflow.MlflowClient().create_registered_model("storyteller")
    assert registry.alias("storyteller", "champion") is None
    with pytest.raises(RegistryError, match="champion"):
        registry.version("storyteller", "champion")


@pytest.mark.parametrize("which", ["champion", "1"])
@pytest.mark.parametrize(
    "ask",
    [
        registry.alias,
        registry.version,
        lambda name, which: registered(f"{name}/{which}"),
        lambda name, which: cleaning.plan(keep=1),
    ],
)
def test_an_unreachable_registry_is_an_error_and_not_a_missing_champion(
    ask: Callable[[str, str], Any], which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.settings.prepare", lambda: None)  # it sets the environment of the whole process
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        RegistryError, match=r"MLflow's server at http://127\.0\.0\.1:9 does not answer: start it"
    ) as told:
        ask("storyteller", which)
    assert from_outside(None, None, Failed(data=told.value))  # and is asked again


@pytest.mark.parametrize(
    "name", ["models:/storyteller@champion", "models:/storyteller/champion", "models:/storyteller/1"]
)
def test_tell_finds_a_registered_model_by_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: None
) -> None:
    monkeypatch.setattr("tasks.settings.prepare", lambda: None)  # it sets the environment of the whole process
    client = mlflow.MlflowClient()
    client.create_registered_model("storyteller")
    folder = tmp_path / "7" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    tags = {f"{tracking.TAG}folder": str(folder), f"{tracking.TAG}register": "0123456789abcdef"}
    made = client.create_model_version("storyteller", source=str(tmp_path), tags=tags)
    client.set_registered_model_alias("storyteller", "champion", made.version)
    assert registered(name) == str(folder)
    assert CliRunner().invoke(app, ["fetch", name]).stdout == f"{folder}\n"
    with pytest.raises(RegistryError, match="no storyteller with version or alias 'nobody'"):
        registered("models:/storyteller@nobody")
    (folder / "config.json").unlink()
    with pytest.raises(
        RegistryError, match=r"The weights of storyteller version 1 are gone from .*/7/model: name another"
    ):
        registered(name)


def test_checkpoints_of_a_registered_training_go_and_its_result_stays(tmp_path: Path) -> None:
    for part in ("checkpoint-5", ".checkpoint-10.part", "checkpoint-10", "result"):
        (tmp_path / part).mkdir()
    trained = Trained((), fingerprint="", result=tmp_path / "result", run_id="", data_md5="")

    registry.drop_checkpoints(trained)

    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_description_begins_with_the_newest_scores_and_keeps_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = mlflow.MlflowClient()
    client.create_registered_model("storyteller")
    tags = {f"{tracking.TAG}folder": "1", f"{tracking.TAG}register": "1"}
    client.create_model_version(
        "storyteller", str(tmp_path), tags=tags, description="Not scored yet.\n\n# storyteller\n\nLooks."
    )
    version = registry.version("storyteller", "1")

    for sentence in ("box F1 0.557, held 1 Nov 2026", "box F1 0.561, promoted 8 Nov 2026"):
        registry.describe(version, sentence)

    assert client.get_model_version("storyteller", "1").description == (
        "box F1 0.561, promoted 8 Nov 2026\n\n# storyteller\n\nLooks."
    )


def two_versions(folder: Path) -> list[registry.Version]:
    client = mlflow.MlflowClient()
    client.create_registered_model("storyteller")
    for number in ("1", "2"):
        tags = {f"{tracking.TAG}folder": number, f"{tracking.TAG}register": number}
        client.create_model_version("storyteller", source=str(folder), tags=tags)
    return [registry.version("storyteller", number) for number in "12"]


def test_a_rollback_that_is_killed_goes_back_to_the_same_version_when_it_is_repeated(
    tmp_path: Path, mlflow_store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two_versions(tmp_path)
    registry.move_champion(first)
    registry.move_champion(second)

    def dying(writes: int) -> Any:
        """MLflow's client, until it has written so often."""
        left, real = iter(range(writes)), mlflow.MlflowClient()

        def ask(name: str) -> Any:
            if name.startswith(("set_", "delete_")) and next(left, None) is None:
                raise KeyboardInterrupt
            return getattr(real, name)

        return type("Dying", (), {"__getattr__": lambda _, name: ask(name)})

    for writes in (0, 1, 2, 1):  # up to each of the writes: a repeat begins where the last one ended
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(registry, "client", dying(writes))
            registry.move_champion(first, by_hand=True)
        # `storyreason deploy previous` again: still the version before
        assert registry.alias("storyteller", "previous") == first

    registry.move_champion(first, by_hand=True)
    assert registry.aliases("storyteller") == {"champion": "1", "previous": "2"}
    assert registry.tags_of(second)[registry.TAKEN_DOWN] == "for version 1"
    assert registry.REPLACES not in registry.tags_of(first)
    # and deploying what is the champion changes nothing
    registry.move_champion(first, by_hand=True)
    assert registry.aliases("storyteller") == {"champion": "1", "previous": "2"}


def test_a_version_taken_down_by_hand_stays_marked_until_it_is_served_by_hand(
    tmp_path: Path, mlflow_store: None
) -> None:
    first, second = two_versions(tmp_path)
    registry.move_champion(first)
    registry.move_champion(second)
    assert registry.TAKEN_DOWN not in registry.tags_of(first)  # it lost to a better one
    registry.move_champion(first, by_hand=True)
    assert registry.tags_of(second)[registry.TAKEN_DOWN] == "for version 1"
    assert registry.alias("storyteller", "previous") == second
    registry.move_champion(second, by_hand=True)
    assert registry.TAKEN_DOWN not in registry.tags_of(second)
