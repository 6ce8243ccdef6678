"""How long a retraining still takes: from what its steps took before."""

import logging
from pathlib import Path

import pytest

from tasks import pace, progress


class Heard(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a run's log says, without Prefect's server."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    lines: list[str] = []
    logger = logging.Logger("run")
    logger.addHandler(Heard(lines))
    monkeypatch.setattr(progress, "get_run_logger", lambda: logger)
    monkeypatch.setattr(progress.Progress, "_show", lambda *_: None)
    return lines


def test_the_first_run_knows_nothing_and_says_nothing(said: list[str]) -> None:
    with pace.Clock("sample", "deploy", {}).step("pull"):
        pass
    assert said == []


def test_the_rest_takes_what_its_steps_took_before(said: list[str]) -> None:
    for step, seconds in (
        ("pull", 10),
        ("train", 700),
        ("train", 500),
        ("train", 600),
        ("evaluate base", 120),
        ("deploy", 80),
    ):
        pace.remember("sample", step, seconds)
    pace.remember("smoke", "train", 20)
    pace.remember("sample", "train", 0.2)  # it came from the cache

    clock = pace.Clock("sample", "deploy", {})

    assert clock.left("pull") == 10 + 600 + 120 + 80
    assert clock.left("evaluate base") == 200
    assert pace.Clock("sample", "train", {}).left("pull") == 610
    assert pace.Clock("sample", "evaluate", {}).left("compare") == 0
    with clock.step("train"):
        pass
    with clock.step("evaluate base"):  # the training before it was short: this is said all the same
        pass
    with clock.step("evaluate champion"):  # there was none so far
        pass
    assert said[0].startswith("train: 10 min as a rule; 13 min until all is done, at ")
    assert said[1].startswith("evaluate base: 2 min as a rule; 3 min until all is done, at ")
    assert said[2].startswith("evaluate champion: not timed before; 80 s until all is done, at ")


def test_only_the_last_times_count_and_a_half_written_line_is_passed_over(said: list[str], tmp_path: Path) -> None:
    for seconds in (9000, 9000, 10, 10, 10, 10, 10):
        pace.remember("sample", "train", seconds)
    with (tmp_path / pace.FILE).open("a") as file:
        file.write('{"preset": "sample", "st')
    assert pace.typical("sample") == {"train": 10}


def test_a_step_that_fails_is_not_remembered(said: list[str]) -> None:
    seconds: dict[str, float] = {}
    with pytest.raises(ValueError), pace.Clock("sample", "deploy", seconds).step("train"):
        raise ValueError
    assert "train" in seconds and pace.typical("sample") == {}


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (61, "61 s"), (700, "12 min"), (9000, "2.5 h")])
def test_durations_are_told_as_people_say_them(seconds: float, words: str) -> None:
    assert pace.spoken(seconds) == words
