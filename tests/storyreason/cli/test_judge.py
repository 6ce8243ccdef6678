"""`storyreason judge`, with a judge of known behaviour behind its endpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from storyreason import dataset
from storyreason.cli import app
from storyreason.errors import ConfigError, DataError
from storyreason.judging.faults import ACTIONS
from storyreason.judging.rubric import RUBRICS
from tests.docs import commands
from tests.storyreason.authoring import scripted


def strict(body: dict[str, Any], _: int = 0) -> str:
    """Takes one from 5 for each stranger and each impossible action."""
    asked = scripted.texts(body)[-1]
    a, b = asked.partition("Story A:")[2].split("Story B:")
    rated = [
        dict.fromkeys(RUBRICS, max(1, 5 - text.count("Beside them stood") - sum(one in text for one in ACTIONS)))
        for text in (a, b)
    ]
    return json.dumps({"why": "…", "a": rated[0], "b": rated[1]})


@pytest.fixture
def here(examples: list[dataset.Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the docs' command names."""
    dataset.write(examples[:3], tmp_path / "data", "test")
    told = [{"story_id": one.story_id, "prediction": f"<think>\n</think>\n{one.story}"} for one in examples[:3]]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in told))
    ratings = "".join(f"Mara,{one.story_id},{3 + place}\n" for place, one in enumerate(examples[:3]))
    (tmp_path / "ratings.csv").write_text(f"rater,story_id,coherence\n{ratings}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_of_the_docs_tells_how_far_the_judge_can_be_trusted(here: Path) -> None:
    (command,) = commands.run_by(commands.JUDGE)
    with scripted.endpoint(strict) as endpoint:
        words = [endpoint.url if word.startswith("http") else word for word in command.words[1:]]
        first = CliRunner().invoke(app, words)
        asked = len(endpoint.bodies)
        again = CliRunner().invoke(app, [*words, "--format", "json"])
    assert first.exit_code == again.exit_code == 0, first.output
    assert "when the stories change places: 100%, when it is asked again: 100%" in first.output
    assert "48 requests, 48,000 tokens in and 4,800 out" in first.output
    report = json.loads(again.stdout)
    assert json.loads((here / "judged" / "report.json").read_text()) == report
    assert len(endpoint.bodies) == asked  # nothing is paid twice, and it counts all the same
    assert report["spent"]["calls"] == 48
    # three predictions and three stories with four numbers of faults, of which six are the story that they are beside
    assert report["correlation"]["all"] < -0.8
    assert report["preferred"] == {"prediction": 0, "neither": 1, "other": 0}
    assert report["prompt"] == "compare-1" and report["model"] == "judge"
    lines = (here / "judged" / "judgements.jsonl").read_text().splitlines()
    assert len(lines) == 48 and json.loads(lines[0])["ratings"]["action"] == 5


def test_what_cannot_be_judged_is_one_sentence(here: Path) -> None:
    words = ["judge", "answers.jsonl", "--data", "data", "--model", "judge", "--endpoint"]
    result = CliRunner().invoke(app, [*words, "http://127.0.0.1:9", "--max-cost", "1"])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "--max-cost needs --price-in and --price-out, per million tokens."
    result = CliRunner().invoke(app, [*words, "nowhere"])
    assert isinstance(result.exception, ConfigError) and "--endpoint = 'nowhere'" in str(result.exception)
    result = CliRunner().invoke(app, [*words, "http://127.0.0.1:9", "--ratings", "none.csv"])
    assert isinstance(result.exception, DataError) and "none.csv cannot be read" in str(result.exception)
