"""The published rule, by hand."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks import films
from storyreason.perception import Film, published


def film_of(
    looks: Sequence[Sequence[float]], faces: Sequence[Sequence[float]] | None = None, height: float = 120
) -> Film:
    """A person in each frame, all in one scene."""
    count = len(looks)

    def scaled(vectors: Sequence[Sequence[float]]) -> np.ndarray:
        found = np.array(vectors, np.float32)
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
        return found

    made = scaled(faces or [[0.0, 0.0]] * count)
    every = np.arange(count)
    return Film(
        "film", list(range(count)), ["person"] * count, [0] * count, list(range(count)), np.zeros(count, int), every,
        np.zeros((count, 4)), made, np.where(made.any(axis=1), height, 0).astype(np.float32), scaled(looks),
    )  # fmt: skip


def test_looks_are_linked_from_a_cosine_of_0_8() -> None:
    assert published.identify(film_of([[1, 0], [0.81, 0.586]])).names == ["char1", "char1"]
    assert published.identify(film_of([[1, 0], [0.79, 0.613]])).names == ["char1", "char2"]


def test_a_large_face_decides_before_looks() -> None:
    unlike, alike = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.1]]
    assert published.identify(film_of(unlike, alike)).names == ["char1", "char1"]
    assert published.identify(film_of(alike, [[1, 0], [-1, 0]])).names == ["char1", "char2"]
    assert published.identify(film_of(alike, [[1, 0], [-1, 0]], height=111)).names == ["char1", "char1"]


def test_two_of_a_frame_or_of_two_labels_are_apart() -> None:
    film = film_of([[1, 0], [1, 0]])
    assert published.identify(replace(film, frames=np.zeros(2, int))).names == ["char1", "char2"]
    assert published.identify(replace(film, labels=["person", "dog"])).names == ["char1", "obj1"]


def test_stories_are_whole_scenes_of_at_least_five_frames_and_a_person() -> None:
    film, _ = films.film(1, 1.0, 300)
    stories = published.windows(film)
    assert np.concatenate(stories).tolist() == list(range(300))
    for story in stories[:-1]:
        assert len(set(film.frames[story].tolist())) >= 5
        assert any(film.labels[at] == "person" for at in story)
    scenes = [set(film.scenes[story].tolist()) for story in stories]
    assert sum(map(len, scenes)) == len(set.union(*scenes))


def test_entities_end_with_their_story_unless_another_is_given() -> None:
    film = film_of([[1, 0]] * 12)
    film = replace(film, scenes=np.repeat([0, 1], 6))
    assert published.identify(film).names == ["char1"] * 6 + ["char2"] * 6
    assert published.identify(film, stories=[np.arange(12)]).names == ["char1"] * 12
