"""`storyreason preset`: what the presets are for, and every parameter as `--set` takes it."""

from typer.testing import CliRunner

from storyreason import config
from storyreason.cli.presets import app


def test_list_says_what_each_preset_is_for() -> None:
    told = CliRunner().invoke(app, ["list"]).output
    for name in config.presets():
        assert f"{name} " in told
    assert "The whole pipeline on a laptop without a GPU" in told


def test_what_show_prints_can_be_given_to_set() -> None:
    told = CliRunner().invoke(app, ["show", "smoke", "--set", "training.epochs=7"]).output
    shown = [line[2:].partition("  # ")[0] for line in told.splitlines()]

    assert "training.epochs=7.0" in shown
    assert config.load("sample", shown) == config.load("smoke", ["training.epochs=7"])
    assert [line.partition("=")[0] for line in shown] == list(config.load("smoke").flat())


def test_show_marks_what_differs_from_the_default() -> None:
    lines = CliRunner().invoke(app, ["show", "sample"]).output.splitlines()
    assert any(line.startswith("* training.learning_rate=0.002  # ") for line in lines)
    assert any(line.startswith("  training.seed=42  # ") for line in lines)
