"""Whatever is written under the grammar has the given IDs, boxes and names, and keeps every rule."""

import random
from pathlib import Path

import pytest
import xgrammar

from storyreason.authoring.given import Given
from storyreason.authoring.grammar import of_analysis
from storyreason.authoring.windows import recognized, windows
from storyreason.format import analysis
from storyreason.perception import frames
from tests.storyreason.authoring import films
from tests.storyreason.authoring.scripted import filled
from tests.storyreason.generation.test_grammar import accepts, compiler, write  # noqa: F401


@pytest.fixture
def given(tmp_path: Path) -> Given:
    """A window of which one person is known."""
    films.write(tmp_path, films=2)
    of = list(frames.read(tmp_path, "red-lantern-482"))
    seen = recognized(tmp_path / "detections.parquet", tmp_path / "ids.parquet")
    return Given(windows(seen.shots(of)).windows[1], {"char1": "Ada May"})


def test_random_texts_under_the_grammar_are_right(
    given: Given,
    compiler: xgrammar.GrammarCompiler,  # noqa: F811
) -> None:
    rules = of_analysis(given, cell=10)
    for seed in range(3):
        text = write(compiler, rules, random.Random(seed), often="abc |\n123,")
        told, faults = given.read(text)
        assert {one.rule for one in faults} <= {"name-taken"}, faults  # which no grammar can know
        assert {row.name for section in told.sections for row in section.characters if row.id == "char1"} == {"Ada May"}
        for shot, section in zip(given.window.shots, told.sections, strict=True):
            assert [(row.id, row.box) for row in section.entities] == [(one.entity, one.box) for one in shot.seen]


def test_the_skeleton_filled_in_is_what_the_grammar_takes_and_nothing_else_is_given(
    given: Given,
    compiler: xgrammar.GrammarCompiler,  # noqa: F811
) -> None:
    rules, text = of_analysis(given, cell=200), filled(given.skeleton(), 0)
    assert accepts(compiler, rules, text)
    told, faults = given.read(text)
    assert not faults and analysis.render(told) == text
    box = given.window.shots[0].seen[0].box
    assert not accepts(compiler, rules, text.replace(str(box), str(box._replace(x1=0))))
    assert not accepts(compiler, rules, text.replace("Ada May", "Ada"))
    assert not accepts(compiler, rules, text.replace("| char1 |", "| char9 |"))
