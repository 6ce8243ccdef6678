"""`storyreason plan` reads a base of the checkout, from whatever folder it is called in."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from storyreason import home
from storyreason.cli import app
from storyreason.errors import ModelError


def test_relative_paths_of_the_configuration_are_the_checkouts_and_those_of_the_call_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(home.VARIABLE, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for part in ("deploy/presets", "storyreason", "docs"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "storyreason/home.py").touch()
    (tmp_path / "tiny-base.dvc").write_text("outs: []")
    (tmp_path / "docs" / "own.yaml").write_text("name: own\nbase: {name: tiny-base}\n")
    for preset in ("sample", "own.yaml"):
        monkeypatch.chdir(tmp_path / "docs")
        done = CliRunner().invoke(app, ["plan", preset])
        assert isinstance(done.exception, ModelError), done.output
        assert "tiny-base has not been fetched yet: `dvc pull tiny-base.dvc`" in str(done.exception)

    monkeypatch.chdir(tmp_path / "docs")
    asked: dict[str, Path] = {}
    (tmp_path / "tiny-base").mkdir()
    monkeypatch.setattr("storyreason.model.config", lambda base, revision: object())
    monkeypatch.setattr("storyreason.cli.plan._largest", lambda chosen, data, step: asked.update(data=data) or 1 / 0)
    done = CliRunner().invoke(app, ["plan", "sample", "--data", "shards"])
    assert isinstance(done.exception, ZeroDivisionError) and asked == {"data": tmp_path / "docs" / "shards"}
