"""What `storyreason evaluate` is told to evaluate."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlflow
import pytest
from typer.testing import CliRunner

from flows import cli, deploy, evaluate, local, report
from flows.evaluate import named
from storyreason import home
from storyreason.config import RunConfig
from storyreason.errors import RegistryError
from tasks import data, tracking

CONFIG = RunConfig()


@pytest.mark.parametrize("which", ["champion", "base", "3"])
def test_a_version_or_the_base_is_that_of_the_preset(which: str) -> None:
    assert named(CONFIG, which) == (CONFIG, which)


def test_a_name_on_the_hub_or_a_folder_is_evaluated_as_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, which = named(CONFIG, "daniel3303/QwenStoryteller")
    assert (config.base.name, config.base.revision, which) == ("daniel3303/QwenStoryteller", None, "base")
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    config, which = named(CONFIG, "mine")
    assert (config.base.name, which) == ("mine", "base")
    assert config.training == CONFIG.training


@pytest.mark.parametrize(
    ("called", "meant"), [("mine", "docs/mine"), ("../theirs", "theirs"), ("champion", "champion")]
)
def test_a_folder_is_that_of_the_caller_from_any_folder_of_the_checkout(
    called: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("deploy/presets", "storyreason", "docs/mine", "theirs"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "storyreason/home.py").touch()
    monkeypatch.delenv(home.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path / "docs")
    monkeypatch.setattr(local, "platform", nullcontext)
    monkeypatch.setattr(report, "quiet_failures", lambda: None)
    asked: list[str] = []

    def ask(which: str, *_: Any, **__: Any) -> None:
        asked.append(which)
        raise InterruptedError

    monkeypatch.setattr(evaluate, "evaluate", ask)
    done = CliRunner().invoke(cli.app, ["evaluate", called])
    assert isinstance(done.exception, InterruptedError) and asked == [meant]


@pytest.mark.parametrize("flow", [evaluate.evaluate, deploy.deploy], ids=lambda flow: flow.name)
def test_a_version_that_cannot_be_used_is_told_before_any_data_are_fetched(
    flow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: None
) -> None:
    monkeypatch.setattr(data, "pull_all", lambda config: pytest.fail("fetched"))
    monkeypatch.setattr(data, "identify", lambda config: pytest.fail("fetched"))
    with pytest.raises(RegistryError, match="has no storyteller with version or alias 'champion'"):
        flow.fn("champion")
    client = mlflow.MlflowClient()
    client.create_registered_model("storyteller")
    tags = {f"{tracking.TAG}folder": str(tmp_path / "gone"), f"{tracking.TAG}register": "0123456789abcdef"}
    client.create_model_version("storyteller", source=str(tmp_path), tags=tags)
    with pytest.raises(RegistryError, match="The weights of storyteller version 1 are gone from"):
        flow.fn("1")
