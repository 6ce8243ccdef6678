"""`storyreason sample data` from the command line."""

from pathlib import Path

from typer.testing import CliRunner

from storyreason import dataset
from storyreason.cli.sample import app


def test_data_writes_both_splits_and_says_where(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["data", "--out", str(tmp_path), "--train-films", "2", "--test-films", "1"])

    assert told.exit_code == 0, told.output
    assert "train: 4 stories in" in told.output
    assert len(dataset.load(tmp_path, "train")) == 4
    assert dataset.check(tmp_path).stories == {"train": 4, "test": 2}
