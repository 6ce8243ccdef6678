"""What was withdrawn is recognized again, by where it was."""

from dataclasses import replace
from pathlib import Path

import pytest

from storyreason.authoring.windows import Shot, Sighting, recognized
from storyreason.authoring.withdrawing import hidden, places, removed, withdraw
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
    known = Withdrawn(film=FILM, entity=PERSON, places=(*where[:2], Place(scene=99, frame=1, box=(0, 0, 9, 9))))
    missed = (where[1].scene, where[1].frame)
    some = [Shot(one.frame, () if (one.frame.scene, one.frame.frame) == missed else one.seen) for one in shots]
    assert missed not in at(some, PERSON) and hidden(some, [known]) == at(some, PERSON) | {missed}


def cut_elsewhere(shots: list[Shot]) -> list[Shot]:
    """The same film, with other scenes, and twice as wide and half as high."""

    def moved(one: Sighting) -> Sighting:
        x1, y1, x2, y2 = one.box
        return replace(one, box=Box(2 * x1, y1 // 2, 2 * x2, y2 // 2))

    return [
        Shot(
            replace(one.frame, scene=one.frame.scene + 7, width=2 * one.frame.width, height=one.frame.height // 2),
            tuple(map(moved, one.seen)),
        )
        for one in shots
    ]


def test_they_stay_hidden_when_the_film_is_cut_and_scaled_differently(shots: list[Shot]) -> None:
    known = Withdrawn(film=FILM, entity=PERSON, places=tuple(places(shots, PERSON)[:1]))
    again = cut_elsewhere(shots)
    assert hidden(again, [known]) == at(again, PERSON) != set()


def test_scenes_count_where_frames_are_numbered_anew_in_each(shots: list[Shot]) -> None:
    frames_ = [one.frame for one in shots]
    anew = [
        Shot(replace(one.frame, frame=sum(other.scene == one.frame.scene for other in frames_[:number])), one.seen)
        for number, one in enumerate(shots)
    ]
    known = Withdrawn(film=FILM, entity=PERSON, places=tuple(places(anew, PERSON)))
    assert len({one.frame.frame for one in anew}) < len(anew) and hidden(anew, [known]) == at(anew, PERSON)


def test_a_film_is_hidden_whole_and_said_if_they_are_found_nowhere(shots: list[Shot]) -> None:
    where = places(shots, PERSON)
    known = Withdrawn(film=FILM, entity=PERSON, places=tuple(where))
    every = {(one.frame.scene, one.frame.frame) for one in shots}
    said: list[str] = []
    assert hidden([Shot(one.frame, ()) for one in shots], [known], say=said.append) == every
    assert said == [
        f"Film {FILM} is left out: nothing is detected where what was withdrawn ({PERSON}) was seen. Build with the settings "
        "and the detector of then."
    ]


def test_a_table_that_they_were_removed_from_keeps_what_is_left(tmp_path: Path, shots: list[Shot]) -> None:
    known = Withdrawn(film=FILM, entity=PERSON, places=tuple(places(shots, PERSON)))
    withdraw(tmp_path, tmp_path / "detections.parquet", tmp_path / "ids.parquet", FILM, PERSON)
    left = [one for one in shots if (one.frame.scene, one.frame.frame) not in known.frames]
    assert left and hidden(left, [known], removed(tmp_path, FILM)) == frozenset()
    withdraw(tmp_path, tmp_path / "detections.parquet", tmp_path / "ids.parquet", FILM, None)
    assert removed(tmp_path, FILM) == frozenset()  # nothing names the film any more


def test_a_film_is_hidden_whole_if_it_is_withdrawn_or_nobody_knows_where_the_person_was(shots: list[Shot]) -> None:
    every = {(one.frame.scene, one.frame.frame) for one in shots}
    assert every and hidden(shots, [Withdrawn(film=FILM)]) == every
    assert hidden(shots, [Withdrawn(film=FILM, entity=PERSON, stories=("black-bicycle-481-1",))]) == every
    assert hidden(shots, []) == frozenset()
