"""Titles: they say who and what, from as much of an analysis as there is."""

import pytest

from storyreason.format.analysis import Analysis, Section
from storyreason.format.tables import Character, Phase, Setting
from storyreason.page.titles import LONGEST, title


def told(*names: str, place: str = "", **phases: str) -> Analysis:
    people = tuple(Character(f"char{n}", name, "a man", "-", "-", "-", None) for n, name in enumerate(names, 1))
    settings = (Setting("Location", place, "-", "-", "-"),) if place else ()
    rows = tuple(Phase(name.replace("_", " "), text, "-", (1,)) for name, text in phases.items())
    return Analysis((Section(1, people, (), settings), Section(2, people[:1])), rows)


@pytest.mark.parametrize(
    ("analysis", "expected"),
    [
        (None, "A story"),
        (told(), "A story"),
        (told("Tom"), "Tom"),
        (told("Tom", "Mara", place="The harbour"), "Tom and Mara: the harbour"),
        (
            told("Tom", "Mara", Introduction="They set out.", Conflict="The red kite is gone."),
            "Tom and Mara: the red kite is gone",
        ),
        (told("Tom", "Mara", Conflict="-", Turning_Point="Mara comes at last"), "Mara comes at last"),
        (told("-", Conflict="a storm"), "a storm"),
        (told("A", "B", "C", "D", "E", Conflict="A storm"), "A storm"),
        (told("Tom", "Ann", "Ben", "Eva", "Max", Conflict="NASA calls"), "Tom, Ann, Ben and 2 more: NASA calls"),
    ],
)
def test_a_title_says_who_and_what(analysis: Analysis | None, expected: str) -> None:
    assert title(analysis) == expected


def test_a_title_is_cut() -> None:
    assert len(title(told("Tom", Conflict="word " * 100))) <= LONGEST
