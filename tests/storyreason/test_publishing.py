"""`storyreason publish`: shows what would be uploaded to the Hub, and rejects what is not a model."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from storyreason import dataset, publishing, scoring
from storyreason.cli import app
from storyreason.errors import ModelError
from tests.adapting import write_folder

RUNNER = CliRunner()


@pytest.fixture
def scorecard(examples: list[dataset.Example], tmp_path: Path) -> Path:
    """An evaluation in which the model told the references themselves, but for one."""
    from storyreason.format import answer

    references = [
        scoring.Reference(one.story_id, tuple(dataset.sizes(one)), one.chain_of_thought, one.story) for one in examples
    ]
    told = {one.story_id: answer.join(one.chain_of_thought, one.story) for one in examples[1:]}
    told[examples[0].story_id] = "nothing"
    path = tmp_path / "free-scorecard.json"
    path.write_text(scoring.score(references, told, ("strict",)).to_json())
    return path


def test_a_dry_run_shows_files_and_card_and_sends_nothing(tiny_base: Path, scorecard: Path) -> None:
    done = RUNNER.invoke(
        app, ["publish", str(tiny_base), "--to", "someone/teller", "--scores", str(scorecard), "--dry-run"]
    )
    assert done.exit_code == 0, done.output
    assert "model.safetensors" in done.output
    assert "chat_template.jinja" in done.output
    assert "in total, to someone/teller" in done.output
    assert "pipeline_tag: image-text-to-text" in done.output
    row = next(line for line in done.output.splitlines() if line.startswith("| `strict/grounding/f1` |"))
    value = float(row.split("|")[2].split()[0])
    assert 0 < value < 1
    assert "to" in row
    assert 'from_pretrained("someone/teller"' in done.output
    assert done.output.rstrip().endswith("nothing was uploaded (--dry-run)")


def test_invalid_models_repositories_and_scorecards_are_rejected(tiny_base: Path, tmp_path: Path) -> None:
    def publish(*arguments: str) -> None:
        RUNNER.invoke(app, ["publish", *arguments, "--dry-run"], catch_exceptions=False)

    with pytest.raises(ModelError, match=r"is not a model folder .*storyreason merge"):
        publish(str(tmp_path), "--to", "someone/teller")
    with pytest.raises(ModelError, match="'teller' is not a repository of the Hub: expected user/model"):
        publish(str(tiny_base), "--to", "teller")
    (tmp_path / "free-scorecard.json").write_text("[]")
    with pytest.raises(ModelError, match=r"free-scorecard.json: The text cannot be read"):
        publish(str(tiny_base), "--to", "someone/teller", "--scores", str(tmp_path / "free-scorecard.json"))


def test_an_adapter_without_its_base_is_not_published(tiny_base: Path, tmp_path: Path) -> None:
    folder = write_folder(tiny_base, tmp_path / "model")
    with pytest.raises(
        ModelError, match=rf"is an adapter over {tiny_base}: make a model of both with `storyreason merge"
    ):
        publishing.prepare(folder, "someone/teller", {})
