"""An untrained base of a family, by the command."""

from pathlib import Path

from typer.testing import CliRunner

from storyreason import config, model, sample
from storyreason.cli import app
from storyreason.errors import ConfigError


def test_the_command_writes_a_base_of_the_family_and_the_same_again(tmp_path: Path) -> None:
    names = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        run = CliRunner().invoke(app, ["sample", "untrained", "--out", str(folder), "--family", "qwen3_vl"])
        assert run.exit_code == 0, run.output
        assert "an untrained Qwen3-VL" in run.output
        names.append(model.load_identity(str(folder)))
    assert names[0] == names[1]
    # The sample's stories are no longer for it than a preset for the sample allows
    tokenizer = model.load_processor(str(tmp_path / "one")).tokenizer
    lengths = [
        len(tokenizer(f"{one.chain_of_thought}{one.story}")["input_ids"]) for one in sample.examples("train", films=6)
    ]
    assert max(lengths) < config.load("smoke").training.max_tokens - 350  # frames and request
    assert model.family(str(tmp_path / "one")).name == "Qwen3-VL"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_a_family_that_is_none_is_refused_with_the_list(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["sample", "untrained", "--out", str(tmp_path / "x"), "--family", "llava"])
    assert isinstance(run.exception, ConfigError)
    assert "--family llava is none: name one of qwen2_5_vl, qwen3_vl, qwen3_5, lfm2_vl." in str(run.exception)
