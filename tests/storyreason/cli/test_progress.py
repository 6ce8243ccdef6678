"""How far long work is, where there is no terminal."""

import pytest

from storyreason.cli import progress


def test_a_line_says_how_far_each_film_is_and_not_more_often_than_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress.told("frames") as tell:
        tell("clara", 1, 4)
        monkeypatch.setattr(progress, "EVERY", 0.0)
        tell("clara [1]", 2, 4)

    assert capsys.readouterr().err.split("\n")[:-1] == ["clara [1]: 2 of 4 frames"]
