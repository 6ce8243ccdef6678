"""`storyreason sample` from the command line."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from storyreason import dataset
from storyreason.cli.sample import app
from storyreason.errors import ModelError


def test_data_writes_both_splits_and_says_where(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["data", "--out", str(tmp_path), "--train-films", "2", "--test-films", "1"])

    assert told.exit_code == 0, told.output
    assert "train: 4 stories in" in told.output
    assert len(dataset.load(tmp_path, "train")) == 4
    assert dataset.check(tmp_path).stories == {"train": 4, "test": 2}


@pytest.mark.parametrize("verb", ["base", "untrained"])
def test_a_folder_that_is_no_model_is_not_replaced_by_one(verb: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelError, match="folder with other contents: name a new folder"):
        CliRunner().invoke(app, [verb, "--out", str(tmp_path)], catch_exceptions=False)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
