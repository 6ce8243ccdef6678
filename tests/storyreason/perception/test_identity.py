"""Entities: what the merging promises whatever it is given, and that it finds them in films whose truth is known."""

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import films
from storyreason.perception import Detections, Film, identify
from storyreason.perception.evidence import Groups
from storyreason.perception.identity import Entities
from storyreason.perception.merging import Merging, nearest
from tests.storyreason.perception import tables

SEEDS = st.integers(0, 10_000)
quick = settings(max_examples=15, deadline=None)


def of_few(seed: int, persons: int, frames: int, scenes: int = 1, labels: tuple[str, ...] = ("person",)) -> Film:
    """A film of arbitrary vectors from a small set, so that many are equal, in frames of up to four detections."""
    luck = np.random.default_rng(seed)
    vectors = films.unit(luck, 8, persons).astype(np.float32)
    rows = [(frame * scenes // frames, frame) for frame in range(frames) for _ in range(luck.integers(1, 5))]
    who, count = luck.integers(persons, size=len(rows)), len(rows)
    corners = luck.uniform(0, 400, (count, 2))
    has_face = luck.random(count) < 0.6
    looks = np.where(luck.random(count)[:, None] < 0.9, vectors[who], 0).astype(np.float32)
    return Film(
        "few",
        list(range(count)),
        [labels[luck.integers(len(labels))] for _ in rows],
        [scene for scene, _ in rows],
        [frame for _, frame in rows],
        np.array([scene for scene, _ in rows]),
        np.array([frame for _, frame in rows]),
        np.concatenate([corners, corners + 50], axis=1),
        np.where(has_face[:, None], vectors[who], 0).astype(np.float32),
        np.where(has_face, 80, 0).astype(np.float32),
        looks,
    )


def as_groups(found: Entities) -> set[frozenset[int]]:
    groups = defaultdict(set)
    for at, one in enumerate(found.names):
        groups[one].add(at)
    return {frozenset(group) for group in groups.values()}


@quick
@given(SEEDS, st.integers(1, 4), st.integers(1, 12), st.integers(1, 3))
def test_two_detections_of_a_frame_are_never_one_entity(seed: int, persons: int, frames: int, scenes: int) -> None:
    film = of_few(seed, persons, frames, scenes, ("person", "dog"))
    for group in as_groups(identify(film)):
        shown = [film.frames[at] for at in group]
        assert len(set(shown)) == len(shown)


@quick
@given(SEEDS, st.sampled_from(films.NOISES), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, noise: float, luck: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    rows = tables.rows(films.film(seed, noise, 80)[0])
    (film,) = Detections(tables.write(folder / "sorted.parquet", rows))
    luck.shuffle(rows)
    (shuffled,) = Detections(tables.write(folder / "shuffled.parquet", rows))
    assert shuffled.ids == film.ids
    one, other = identify(film), identify(shuffled)
    assert list(one.names) == list(other.names)
    assert np.array_equal(one.probabilities, other.probabilities, equal_nan=True)


def test_a_film_among_others_has_the_entities_it_has_alone(tmp_path: Path) -> None:
    made = {name: films.film(seed, 1.4, 150, name)[0] for seed, name in enumerate(("b", "a", "film 10", "film 9"))}
    alone = {}
    for name, film in made.items():
        (read,) = Detections(tables.write(tmp_path / "alone.parquet", tables.rows(film)))
        alone[name] = identify(read)
    mixed = [row for name in ("film 9", "a", "film 10", "b") for row in tables.rows(made[name])]
    np.random.default_rng(0).shuffle(mixed)
    table = Detections(tables.write(tmp_path / "mixed.parquet", mixed))
    assert list(table.films) == ["a", "b", "film 9", "film 10"]
    for film in table:
        assert list(identify(film).names) == list(alone[str(film.name)].names)


def test_one_person_alone_in_all_frames_is_one_entity() -> None:
    """What all its embeddings share is that person, not the model: a film's mean must not be subtracted."""
    film = replace(of_few(1, 1, 30, 6), face_heights=np.zeros(0, np.float32))
    alone = np.unique(film.frames, return_index=True)[1]
    luck = np.random.default_rng(2)
    looks = films.unit(luck, 32) + 0.4 * films.unit(luck, 32, len(alone))
    film = Film(
        "alone",
        list(range(len(alone))),
        ["person"] * len(alone),
        film.scenes[alone].tolist(),
        film.frames[alone].tolist(),
        film.scenes[alone],
        film.frames[alone],
        film.boxes[alone],
        np.zeros((len(alone), 0), np.float32),
        np.zeros(len(alone), np.float32),
        (looks / np.linalg.norm(looks, axis=1, keepdims=True)).astype(np.float32),
    )
    assert set(identify(film).names) == {"char1"}


def test_things_of_different_labels_and_kinds_are_apart() -> None:
    film = of_few(3, 1, 12, 2, ("person", "dog", "cat", "landmark: the old mill", "background: sky"))
    found = identify(film)
    by_name = defaultdict(set)
    for name, label in zip(found.names, film.labels, strict=True):
        by_name[name].add(label)
    assert all(len(labels) == 1 for labels in by_name.values())
    prefixes = {
        label: {name.rstrip("0123456789") for name, (one,) in by_name.items() if one == label} for label in film.labels
    }
    assert prefixes == {
        "person": {"char"}, "dog": {"obj"}, "cat": {"obj"}, "landmark: the old mill": {"lm"}, "background: sky": {"bg"},
    }  # fmt: skip


def test_entities_are_numbered_by_first_appearance() -> None:
    names = identify(films.film(5, 1.0, 200)[0]).names
    for kind in ("char", "obj"):
        first = list(dict.fromkeys(name for name in names if name.startswith(kind)))
        assert first == [f"{kind}{number}" for number in range(1, len(first) + 1)]


def test_detections_without_any_embedding_are_each_an_entity() -> None:
    film = replace(
        films.film(6, 1.0, 40)[0], face_heights=np.zeros(40, np.float32), looks=np.zeros((40, 4), np.float32)
    )
    found = identify(film)
    assert len(set(found.names)) == 40
    assert np.isnan(found.probabilities).all()


def test_a_detection_rests_on_the_weakest_merge_that_brought_it_in() -> None:
    film = of_few(7, 1, 9, 9)
    merging = Merging(film, None)  # type: ignore[arg-type]
    merging.join(0, 1, 0.9)
    merging.join(2, 3, 0.8)
    merging.join(0, 4, 0.7)
    merging.join(0, 2, 0.6)  # {0, 1, 4} and {2, 3}
    assert merging.roots().tolist()[:6] == [0, 0, 0, 0, 0, 5]
    told = merging.probabilities()
    assert np.isnan(told[[0, 5]]).all()
    assert told[1:5] == pytest.approx([0.9, 0.6, 0.6, 0.7])


@given(SEEDS, st.integers(2, 60), st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_the_nearest_are_those_with_the_highest_cosine(seed: int, total: int, count: int) -> None:
    vectors = films.unit(np.random.default_rng(seed), 5, total)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    wanted = {
        (min(one, int(other)), max(one, int(other)))
        for one in range(total)
        for other in np.argsort(-cosines[one])[: total if total <= count + 1 else count]
        if other != one
    }
    assert set(zip(*(part.tolist() for part in nearest(vectors, count)), strict=True)) == wanted


def test_the_level_of_different_people_is_that_of_one_frame() -> None:
    """An embedding model whose vectors share a direction gives different people a high cosine."""
    film, _ = films.film(8, 1.0, 400)
    shared = films.unit(np.random.default_rng(9), film.looks.shape[1])
    looks = film.looks + 2 * shared
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    before, after = Groups(film), Groups(replace(film, looks=looks.astype(np.float32)))
    assert before.look_measures.level.mean() < 0.5 < 0.75 < after.look_measures.level.mean()
    i, j = np.arange(0, 300), np.arange(100, 400)
    same_label = before.labels[i] == before.labels[j]
    one, other = (groups.compare(i, j)[1][same_label, 6] for groups in (before, after))
    assert np.abs(one - other).mean() < 0.15


@pytest.mark.parametrize("noise", films.NOISES)
def test_films_whose_truth_is_known(noise: float) -> None:
    """Pairs of detections, over the whole film: those that are linked are the same, and most of those that are the same are
    linked."""
    film, truth = films.film(77, noise, 500)
    names = np.unique(list(identify(film).names), return_inverse=True)[1]
    linked, same = names[:, None] == names, truth[:, None] == truth
    right = (linked & same).sum() - len(film)
    assert right / (linked.sum() - len(film)) > 0.8
    assert right / (same.sum() - len(film)) > 0.6
