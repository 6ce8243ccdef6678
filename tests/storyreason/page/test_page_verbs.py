"""`storyreason page`: a folder of pages from a data set, or from answers to it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from storyreason import dataset
from storyreason.cli import page as cli
from storyreason.errors import DataError
from tests.storyreason.page.conftest import Told

Page = Callable[..., tuple[list[str], str]]


@pytest.fixture
def data(told: Told, tmp_path: Path) -> Path:
    """A data set whose test split has two stories with IDs that are unsuitable as file names."""
    thought, story = told.reference.removeprefix("<think>\n").split("\n</think>\n")
    examples = [dataset.Example(name, told.images, thought, story) for name in ("a/b", "a b", "index")]
    dataset.write(examples, tmp_path / "data", "test")
    return tmp_path / "data"


@pytest.fixture
def page(tmp_path: Path) -> Page:
    app = typer.Typer()
    app.command()(cli.page)

    def page(*arguments: object) -> tuple[list[str], str]:
        result = CliRunner().invoke(app, [*map(str, arguments), "--out", str(tmp_path / "out")])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return sorted(path.name for path in (tmp_path / "out").iterdir()), result.output

    return page


def test_a_data_set_becomes_a_page_per_story_and_an_index(page: Page, data: Path, tmp_path: Path) -> None:
    names, output = page(data)
    assert names == ["a_b-2.html", "a_b.html", "index.html", "index_.html"]
    assert "3 pages" in output
    index = (tmp_path / "out/index.html").read_text()
    assert all(f'href="{name}"' in index for name in names if name != "index.html")
    assert index.count("valid") == 3


def test_answers_are_shown_beside_their_references(page: Page, data: Path, told: Told, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"story_id": "a b", "prediction": told.prediction}) + "\n")
    names, _ = page(answers, "--data", data)
    assert names == ["a_b.html", "index.html"]
    shown = (tmp_path / "out/a_b.html").read_text()
    assert '"role":"prediction"' in shown
    assert '"role":"reference"' in shown


def test_one_story_of_many(page: Page, data: Path) -> None:
    names, _ = page(data, "--story", "index")
    assert names == ["index.html", "index_.html"]


def test_bad_input_is_named(page: Page, data: Path, told: Told, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"story_id": "who", "prediction": told.prediction}) + "\n")
    with pytest.raises(DataError, match="--data"):
        page(answers)
    with pytest.raises(DataError, match="no story 'who'"):
        page(answers, "--data", data)
    with pytest.raises(DataError, match="no story 'nobody'"):
        page(data, "--story", "nobody")
    with pytest.raises(DataError, match="no answer for story 'a b'"):
        page(answers, "--data", data, "--story", "a b")
