"""`building.py whole` counts what became of each film, and tells a clip without stories from a chain that broke."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storyreason.authoring.assembling import FilmStories, Told
from storyreason.authoring.writing import LeftOut

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


def chain(folder: Path, code: int = 0, said: str = "") -> Any:
    import building_whole

    process = SimpleNamespace(wait=lambda: code)
    clone: Any = SimpleNamespace(folder=folder, runs=folder / "runs", start=lambda *_: process, said=lambda: said)
    return building_whole.Chain(clone)


def test_windows_are_counted_with_what_was_wrong(tmp_path: Path) -> None:
    # Given a film of three windows, two of which became stories, and one without a window
    told = tuple(Told(f"film-7-{number}", ((0, 0),), "", "") for number in (1, 3))
    bad = (LeftOut("film-7-2", "analysis", "answer-truncated", "be shorter"),)
    for film, stories, left_out, frames in (("film-7", told, bad, 17), ("bikes", (), (), 12)):
        one = FilmStories(film, stories, left_out, {}, frames, frames - 5 * len(stories + left_out), {}, ())
        place = tmp_path / "runs" / "author" / film / "stories.json"
        place.parent.mkdir(parents=True)
        place.write_text(one.to_json())
    # When they are counted
    films = chain(tmp_path).films()
    # Then each window is a story, or says why not
    assert films["film-7"] == {
        "frames": 17, "in no window": 2, "windows": 3, "stories": 2, "left out": {"analysis, answer-truncated": 1},
    }  # fmt: skip
    assert films["bikes"] == {"frames": 12, "in no window": 12, "windows": 0, "stories": 0, "left out": {}}


def test_a_clip_without_stories_says_why_and_a_failure_ends_the_chain(tmp_path: Path) -> None:
    said = "storyreason: No film gave a story, as no window has a person: see the log."
    why = chain(tmp_path, 2, f"something else\n{said}\n").add(tmp_path / "bikes.mp4")
    assert why == {"why": "No film gave a story, as no window has a person: see the log."}

    with pytest.raises(RuntimeError, match=r"build .*bikes.mp4 .*ended with 2: .*The model that writes is not there"):
        chain(tmp_path, 2, "storyreason: The model that writes is not there").add(tmp_path / "bikes.mp4")


def test_a_version_of_other_data_is_noticed(tmp_path: Path) -> None:
    register = tmp_path / "runs" / "register" / "1" / "manifest.json"
    register.parent.mkdir(parents=True)
    register.write_text(json.dumps({"data_md5": "other", "name": "storyteller-smoke", "number": "1"}))
    register.with_name("training_stories.json").write_text("[]")
    (tmp_path / "films.dvc").write_text("outs:\n- md5: these\n")
    with pytest.raises(RuntimeError, match="version 1 is of other, not of"):
        chain(tmp_path).trained()
