"""Corrections always hold, also after a new detector or embedding model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks import films
from storyreason.errors import DataError
from storyreason.perception import Correction, Film, identify, linked, load_corrections

SEEDS = st.integers(0, 10_000)
quick = settings(max_examples=25, deadline=None)


def place(film: Film, at: int, /, **changed: Any) -> dict[str, Any]:
    return {"film": film.name, "frame": film.frame_names[at], "box": film.boxes[at].tolist(), **changed}


def correction(kind: str, *places: dict[str, Any]) -> Correction:
    return Correction.model_validate({kind: list(places)})


def without_overlaps(film: Film) -> Film:
    """The film with boxes of one frame side by side."""
    boxes = np.array([[at % 40 * 100, 0, at % 40 * 100 + 60, 150] for at in range(len(film))], float)
    return replace(film, boxes=boxes)


@pytest.fixture(scope="module")
def film() -> Film:
    return without_overlaps(films.film(3, 1.4, 150)[0])


def people(film: Film) -> list[int]:
    return [at for at, label in enumerate(film.labels) if label == "person"]


@quick
@given(SEEDS)
def test_corrections_are_kept(film: Film, seed: int) -> None:
    luck = np.random.default_rng(seed)
    a, b, c, d = luck.choice(people(film), 4, replace=False).tolist()
    assume(film.frames[a] != film.frames[b])
    found = identify(
        film,
        linked(
            film,
            [correction("merge", place(film, a), place(film, b)), correction("split", place(film, c), place(film, d))],
        ),
    )
    assert found.names[a] == found.names[b]
    assert found.names[c] != found.names[d]
    for group in set(found.names):
        frames = [frame for frame, name in zip(film.frames.tolist(), found.names, strict=True) if name == group]
        assert len(set(frames)) == len(frames)


def test_a_merge_joins_the_whole_entities(film: Film) -> None:
    before = identify(film).names
    sets = {name: {at for at, one in enumerate(before) if one == name} for name in before if name.startswith("char")}
    one, other = next(
        (one, other)
        for one in sets
        for other in sets
        if one < other
        and len(sets[one]) > 1 < len(sets[other])
        and not {film.frames[at] for at in sets[one]} & {film.frames[at] for at in sets[other]}
    )
    first, second = min(sets[one]), min(sets[other])
    after = identify(film, linked(film, [correction("merge", place(film, first), place(film, second))])).names
    assert len({after[at] for at in sets[one] | sets[other]}) == 1
    unchanged = [at for at in range(len(film)) if at not in sets[one] | sets[other]]
    assert len({after[at] for at in unchanged}) == len({before[at] for at in unchanged})


def test_a_split_divides_an_entity(film: Film) -> None:
    before = identify(film).names
    one, other = (
        (at for at in people(film) if before[at] == "char1")
        if before.count("char1") == 2
        else [at for at in people(film) if before[at] == "char1"][:2]
    )
    after = identify(film, linked(film, [correction("split", place(film, one), place(film, other))])).names
    assert before[one] == before[other]
    assert after[one] != after[other]


def test_corrections_survive_another_detector_and_another_embedding_model(film: Film) -> None:
    """Other IDs, boxes moved by some pixels, a detection less in front, and embeddings of another length."""
    persons = people(film)
    names = identify(film).names
    same = next((a, b) for a in persons for b in persons if a < b and names[a] == names[b])
    unlike = next(
        (a, b) for a in persons for b in persons if a < b and names[a] != names[b] and film.frames[a] != film.frames[b]
        and not {a, b} & set(same)
    )  # fmt: skip
    made = [
        correction("split", *(place(film, at) for at in same)),
        correction("merge", *(place(film, at) for at in unlike)),
    ]
    luck = np.random.default_rng(0)
    other, _ = films.film(3, 1.4, 150, model=films.Model.of(luck, face=64, look=80))
    rows = np.array(
        [at for at in range(len(film)) if at != next(at for at in range(150) if at not in {*same, *unlike})]
    )
    moved = film.boxes[rows] + luck.uniform(-6, 6, (len(rows), 4))
    other = replace(films.part(other, rows), ids=[f"new-{at}" for at in rows], boxes=moved)
    found = linked(other, made)
    assert not found.left_out
    after = dict(zip(rows.tolist(), identify(other, found).names, strict=True))
    assert after[same[0]] != after[same[1]]
    assert after[unlike[0]] == after[unlike[1]]


def test_names_are_compared_as_text(film: Film) -> None:
    """Tables of other programs have numbers where contact sheets write text, and the other way round."""
    one, other = people(film)[:2]
    places = [place(film, at, film="7", frame=str(film.frame_names[at])) for at in (one, other)]
    numbered = replace(film, name=7)
    assert linked(numbered, [correction("split", *places)]).apart == ((one, other),)
    scenes = [{**place(film, at, film=7), "scene": str(film.scene_names[at])} for at in (one, other)]
    assert linked(replace(film, name="7"), [correction("split", places[0], scenes[1])]).apart == ((one, other),)


def test_a_place_without_a_detection_is_left_out_and_said(film: Film) -> None:
    gone = place(film, 0, box=[9000, 0, 9100, 100])
    found = linked(film, [correction("merge", place(film, 1), gone)])
    assert not found.together
    (sentence,) = found.left_out
    assert sentence == (
        "No detection is at frame 0 of film 'film', box 9000,0,9100,100: this place of a correction is left out."
    )
    found = linked(film, [correction("split", place(film, 1), place(film, 1))])
    assert not found.apart
    assert "One detection is at two places of a split" in found.left_out[0]


def test_corrections_of_other_films_do_not_matter(film: Film) -> None:
    assert linked(film, [correction("merge", place(film, 0, film="x"), place(film, 1, film="x"))]).together == ()


def test_contradictions_are_refused(film: Film) -> None:
    persons = people(film)
    a, b = next((a, b) for a in persons for b in persons if a < b and film.frames[a] == film.frames[b])
    c = next(at for at in persons if film.frames[at] != film.frames[a])
    with pytest.raises(DataError, match=r"which are both in frame .*: two detections of one frame are two entities"):
        linked(
            film,
            [correction("merge", place(film, a), place(film, c)), correction("merge", place(film, c), place(film, b))],
        )
    with pytest.raises(DataError, match="both merge and split"):
        linked(
            film,
            [correction("merge", place(film, a), place(film, c)), correction("split", place(film, a), place(film, c))],
        )
    thing = next(at for at, label in enumerate(film.labels) if label != "person" and film.frames[at] != film.frames[a])
    with pytest.raises(DataError, match=r"\(person\): an entity has one kind|an entity has one kind"):
        linked(film, [correction("merge", place(film, a), place(film, thing))])


def test_a_frame_that_several_scenes_have_needs_its_scene(film: Film) -> None:
    again = replace(film, frame_names=[0] * len(film))
    at = int(np.flatnonzero(film.scenes == 1)[0])
    with pytest.raises(DataError, match="in more than one scene: add its `scene`"):
        linked(again, [correction("split", place(again, at), place(again, 0))])
    scene = film.scene_names[at]
    first = min(row for row in range(len(film)) if film.frames[row] == film.frames[at])
    again = replace(film, frame_names=[int(film.frames[at])] * len(film), scenes=film.scenes)
    one = replace(again, frames=film.scenes)
    assert linked(
        one, [correction("split", place(one, first, scene=scene), place(one, 0, scene=film.scene_names[0]))]
    ).apart


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2, is no correction"),
        ("[]", "line 2, is no correction"),
        ('{"join": []}', "join: Extra inputs are not permitted"),
        ("{}", "either merge or split is required"),
        ('{"merge": [{"film": "a", "frame": 1, "box": [0, 0, 9, 9]}]}', "merge: List should have at least 2 items"),
        (
            '{"merge": [{"film": "a", "frame": 1, "box": [0, 0, 9]}, {"film": "a", "frame": 2, "box": [0, 0, 9, 9]}]}',
            "merge.0.box: List should have at least 4 items",
        ),
        (
            '{"split": [{"film": "a", "frame": 1, "box": [0, 0, 9, 9]}, {"film": "b", "frame": 2, "box": [0, 0, 9, 9]}]}',
            "the places of a correction are in one film",
        ),
    ],
)
def test_a_line_that_is_no_correction_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "corrections.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(DataError) as error:
        load_corrections(path)
    assert said in str(error.value)


def test_a_file_of_corrections_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read"):
        load_corrections(tmp_path / "none.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="binary cannot be read"):
        load_corrections(tmp_path / "binary")
