"""The films that entities are measured on, and the claim that is made of them."""

import json

import numpy as np
import pytest

from benchmarks import drawn, films
from benchmarks import identity as benchmark
from storyreason.perception import Film, evidence, identity, published
from storyreason.sample.world import HEIGHT, WIDTH


@pytest.mark.parametrize("make", [lambda seed: films.film(seed, 1.4, 120), drawn.film], ids=["synthetic", "drawn"])
def test_a_film_is_made_again_by_its_seed(make) -> None:  # type: ignore[no-untyped-def]
    (film, truth), (again, same), (other, _) = make(1), make(1), make(2)
    assert np.array_equal(film.looks, again.looks) and np.array_equal(film.faces, again.faces)
    assert np.array_equal(truth, same)
    assert film.looks.shape != other.looks.shape or not np.array_equal(film.looks, other.looks)
    _consists(film, truth)


def _consists(film: Film, truth: np.ndarray) -> None:
    """No entity is twice in a frame, and each has one label; rows are in the order of a table."""
    assert len(set(zip(film.frames.tolist(), truth.tolist(), strict=True))) == len(film)
    assert len(set(zip(film.labels, truth.tolist(), strict=True))) == len(set(truth.tolist()))
    assert (np.diff(film.frames) >= 0).all() and (np.diff(film.scenes) >= 0).all()
    assert np.allclose(np.linalg.norm(film.looks, axis=1), 1, atol=1e-5)


def test_drawn_boxes_are_in_their_frames() -> None:
    boxes = drawn.film(3)[0].boxes
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (WIDTH, HEIGHT)).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()


def test_the_calibration_is_of_films_that_are_not_evaluated() -> None:
    stored = json.loads(benchmark.CALIBRATION.read_text())
    assert tuple(stored["features"]) == evidence.FEATURES
    command, count = stored["source"].rsplit(" ", 1)
    assert command == "python benchmarks/identity.py calibrate --count"
    assert int(count) < benchmark.EVALUATION


@pytest.mark.parametrize("where", ["stories", "film"])
def test_at_most_half_the_errors_of_the_published_rule(where: str) -> None:
    """On two small films, with thresholds near its best ones; `python benchmarks/identity.py errors` says how it is on many."""
    model = films.Model.of(np.random.default_rng(benchmark.EVALUATION))
    made = [films.film(benchmark.EVALUATION + 500 + seed, 1.4, 300, model=model) for seed in range(2)]
    cases = [benchmark.case_of(*one, "people", where) for one in made]
    ours = benchmark.measure(cases, lambda case: identity.identify(case.film))["error"]
    rules = [published.Rule(), *(published.Rule(face, look, 1) for face in (0.7, 0.75) for look in (0.8, 0.85))]
    theirs = min(benchmark.measure(cases, benchmark.by_rule(rule))["error"] for rule in rules)
    assert ours <= theirs / 2


def test_errors_count_over_and_under_merging_apart() -> None:
    film, truth = films.film(1, 1.0, 60)
    case = benchmark.Case(film, truth, [np.arange(60)])

    def error(names: list[str]) -> dict[str, float]:
        return benchmark.measure([case], lambda _: identity.Entities(names, np.zeros(60)))

    assert error([str(one) for one in truth]) == {"error": 0, "over-merging": 0, "under-merging": 0}
    alone = error([str(at) for at in range(60)])
    assert alone["over-merging"] == 0 < alone["under-merging"]
    together = error(["all"] * 60)
    assert together["under-merging"] == 0 < together["over-merging"]
