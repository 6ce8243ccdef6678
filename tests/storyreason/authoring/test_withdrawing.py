"""What was withdrawn is recognized again, by where it was."""

from pathlib import Path

import pytest

from storyreason.authoring.windows import Shot, Sighting, recognized
from storyreason.authoring.withdrawing import hidden, places
from storyreason.dataset.withdrawn import Place, Withdrawn
from storyreason.format.boxes import Box
from storyreason.perception import frames
from tests.storyreason.authoring import films

FILM, PERSON = "black-bicycle-481", "char1"


@pytest.fixture
def shots(tmp_path: Path) -> list[Shot]:
    folder = films.write(tmp_path)
    seen = recognized(folder / "detections.parquet", folder / "ids.parquet", FILM)
    return seen.shots(list(frames.read(folder, FILM)))


def at(shots: list[Shot], entity: str) -> set[tuple[int, int]]:
    return {(one.frame.scene, one.frame.frame) for one in shots for seen in one.seen if seen.entity == entity}


def test_a_person_is_hidden_wherever_a_new_detector_and_new_ids_say_they_are(shots: list[Shot]) -> None:
    where = places(shots, PERSON)
    other = {"char1": "char9", "char2": "char1"}

    def moved(one: Sighting) -> Sighting:
        x1, y1, x2, y2 = one.box
        return Sighting(other.get(one.entity, one.entity), one.label, Box(x1 + 2, y1 - 2, x2 + 2, y2 - 1))

    again = [Shot(one.frame, tuple(map(moved, reversed(one.seen)))) for one in shots]
    known = Withdrawn(film=FILM, entity=PERSON, places=tuple(where[:1]))  # one place is enough
    assert hidden(again, [known]) == at(shots, PERSON) == at(again, "char9") < at(shots, PERSON) | at(again, "char1")


def test_a_frame_that_showed_them_is_hidden_though_nothing_is_detected_there(shots: list[Shot]) -> None:
    where = places(shots, PERSON)
    nothing = [Shot(one.frame, ()) for one in shots]
    known = Withdrawn(film=FILM, entity=PERSON, places=(*where[:2], Place(scene=99, frame=1, box=(0, 0, 9, 9))))
    assert hidden(nothing, [known]) == {(one.scene, one.frame) for one in where[:2]}


def test_a_film_is_hidden_whole_if_it_is_withdrawn_or_nobody_knows_where_the_person_was(shots: list[Shot]) -> None:
    every = {(one.frame.scene, one.frame.frame) for one in shots}
    assert every and hidden(shots, [Withdrawn(film=FILM)]) == every
    assert hidden(shots, [Withdrawn(film=FILM, entity=PERSON, stories=("black-bicycle-481-1",))]) == every
    assert hidden(shots, []) == frozenset()
