"""Entities of synthetic films (benchmarks/films.py): how many errors, how fast, and the calibration they rest on.

python benchmarks/identity.py calibrate      fits storyreason/perception/calibration.json
python benchmarks/identity.py errors         against the published rule, as published and at its best thresholds
python benchmarks/identity.py sample         the same on the sample world, with colour histograms as looks
python benchmarks/identity.py probabilities  what the probabilities are worth
python benchmarks/identity.py speed 20000    seconds and peak memory of `storyreason identify`
"""

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import films  # noqa: E402
from storyreason.format.boxes import Box  # noqa: E402
from storyreason.perception import evidence, identity, published  # noqa: E402
from storyreason.perception.film import Film, kinds  # noqa: E402
from storyreason.perception.merging import Merging  # noqa: E402
from storyreason.scoring import identity as scoring  # noqa: E402
from storyreason.scoring.matching import EntityBox, Pair  # noqa: E402

CALIBRATION = ROOT / "storyreason" / "perception" / "calibration.json"
RESULTS = ROOT / "benchmarks" / "results" / "identity.json"
EVALUATION = 1_000_000
"""The first seed of evaluation films; calibration's are below."""
CHOSEN_ON = 2
"""Synthetic films that the best thresholds of the published rule are chosen on, of each noise."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@app.command()
def calibrate(count: int = 200, out: Path = CALIBRATION) -> None:
    """Fit the coefficients on films of mixed size and noise, seeds 0 to COUNT - 1, and write them."""
    examples = [example for seed in range(count) for example in _examples(seed)]
    fitted = _fitted(examples)
    # What counts is whether the pair that a group would be merged by is the same, so a second fit sees only pairs that
    # are the most probable ones of a group.
    coefficients = _fitted([example.best(fitted) for example in examples]).coefficients
    rows = {
        stage: {case: coefficients[at][number].round(4).tolist() for number, case in enumerate(evidence.CASES)}
        for at, stage in enumerate(evidence.STAGES)
    }
    source = f"python benchmarks/identity.py calibrate --count {count}"
    stored = {"source": source, "features": evidence.FEATURES, "coefficients": rows}
    out.write_text(json.dumps(stored, indent=1) + "\n")


@dataclass(frozen=True)
class Example:
    """Pairs of groups of one film: what they are compared by, and whether they are the same."""

    stage: evidence.Stage
    i: np.ndarray
    j: np.ndarray
    case: np.ndarray
    features: np.ndarray
    same: np.ndarray

    def best(self, using: evidence.Calibration) -> "Example":
        """Without the pairs that are not the most probable ones of one of their groups."""
        logits = using.logits(self.stage, self.case, self.features)
        highest = np.full(max(self.j, default=0) + 1, -np.inf)
        for groups in (self.i, self.j):
            np.maximum.at(highest, groups, logits)
        kept = logits >= np.minimum(highest[self.i], highest[self.j])
        return Example(self.stage, *(part[kept] for part in (self.i, self.j, self.case, self.features, self.same)))


def _fitted(examples: list[Example]) -> evidence.Calibration:
    from sklearn.linear_model import LogisticRegression

    coefficients = np.zeros((len(evidence.STAGES), len(evidence.CASES), len(evidence.FEATURES)))
    for at, stage in enumerate(evidence.STAGES):
        of_stage = [example for example in examples if example.stage == stage]
        for number, case in enumerate(evidence.CASES):
            features = np.concatenate([one.features[one.case == number] for one in of_stage])
            same = np.concatenate([one.same[one.case == number] for one in of_stage])
            used = features.std(axis=0) > 0
            used[0] = True
            fitted = LogisticRegression(C=10, fit_intercept=False, max_iter=2000).fit(features[:, used], same)
            coefficients[at, number, used] = fitted.coef_[0]
            console.print(f"{stage}, {case}: {len(same)} pairs, {same.mean():.3f} the same")
    return evidence.Calibration(coefficients)


def _examples(seed: int) -> Iterator[Example]:
    """Pairs of groups that a merging could meet in a film."""
    luck = np.random.default_rng(seed)
    detections = int(150 * 6 ** luck.random())
    film, truth = films.film(seed, luck.uniform(0.7, 2.2), detections)
    if seed % 5 == 4:  # some films lack looks
        film.looks[luck.random(len(film)) < 0.5] = 0
    for stage in evidence.STAGES:
        for parts in (0, 1, 2, 3) if stage == "scene" else (1, 1, 3, 6):
            merging = Merging(film, evidence.Calibration(np.zeros(0)))
            # At the first stage a group is a part of what a scene shows of an entity (of one detection, for 0 parts);
            # at the second, some scenes of an entity.
            groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
            drawn = luck.integers(60, size=(truth.max() + 1, film.scenes.max() + 1))
            for at, entity in enumerate(truth.tolist()):
                scene = int(film.scenes[at])
                if stage == "scene":
                    part = int(luck.integers(parts)) if parts else at
                else:
                    part = int(drawn[entity, scene]) % parts if parts > 1 else scene
                groups[entity, scene if stage == "scene" else 0, part].append(at)
            for first, *others in groups.values():
                for other in others:
                    merging.join(first, other, 1.0)
            merging.groups.measure(stage)
            i, j = merging.candidates(stage)
            yield Example(stage, i, j, *merging.groups.compare(i, j), truth[i] == truth[j])


Scores = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A film, the entity that each of its detections shows, and the detections of each story in it."""

    film: Film
    truth: np.ndarray
    stories: list[np.ndarray]


Find = Callable[[Case], identity.Entities]


@app.command()
def errors(noise: list[float] = list(films.NOISES), count: int = 8, only: str = "", out: Path = RESULTS) -> None:  # noqa: B006
    """Errors on films of three noises, in stories and over whole films, of people and of things.

    The best thresholds of the published rule are chosen on the first of the films. ONLY is one of "people, stories" and so
    on; what other runs have measured is kept.
    """
    model = films.Model.of(np.random.default_rng(EVALUATION))
    for level in noise:
        made = [films.film(EVALUATION + seed, level, 1000, model=model) for seed in range(count)]
        rows = _compare(made, only)
        _print(f"noise {level}", rows)
        _store(out, f"noise {level}", rows, f"errors --noise {level} --count {count}")


@app.command()
def sample(count: int = 12, out: Path = RESULTS) -> None:
    """Errors on films of the sample world, made harder (benchmarks/drawn.py), with colour histograms as looks.

    The best thresholds are chosen on all of them.
    """
    from benchmarks import drawn

    found = _compare([drawn.film(EVALUATION + seed) for seed in range(count)], chosen_on=count)
    _print("sample world, colour histograms", found)
    _store(out, "sample", found, f"sample --count {count}")


def _compare(
    made: list[tuple[Film, np.ndarray]], only: str = "", chosen_on: int = CHOSEN_ON
) -> dict[str, dict[str, Scores]]:
    """The errors of each method, of people and of things, in stories and over whole films."""
    rows = {}
    for what in ("people", "things"):
        for where in ("stories", "film"):
            if only not in ("", f"{what}, {where}"):
                continue
            cases = [case_of(film, truth, what, where) for film, truth in made]
            rule = _best_rule(cases[:chosen_on], what)
            rows[f"{what}, {where}"] = {
                "published rule": measure(cases, by_rule(published.Rule())),
                "published rule, all faces, best thresholds": {
                    **measure(cases, by_rule(rule)),
                    "face threshold": rule.face,
                    "look threshold": rule.look,
                },
                "calibrated": measure(cases, lambda case: identity.identify(case.film)),
            }
    return rows


def by_rule(rule: published.Rule) -> Find:
    """The published rule, for each story apart."""
    return lambda case: published.identify(case.film, rule, case.stories)


def case_of(film: Film, truth: np.ndarray, what: str, where: str) -> Case:
    """The people or the things of a film, which no method compares, in its stories, or with the whole film as one."""
    chosen = np.array([kind == "char" for kind in kinds(film.labels)]) == (what == "people")
    stories = published.windows(film) if where == "stories" else [np.arange(len(film))]
    place = np.cumsum(chosen) - 1
    inside = [place[story[chosen[story]]] for story in stories]
    return Case(films.part(film, np.flatnonzero(chosen)), truth[chosen], [story for story in inside if len(story)])


def _best_rule(cases: list[Case], what: str) -> published.Rule:
    """The published rule with all faces and the thresholds with the fewest errors in these cases: the best of each in steps
    of 0.05 (looks, then faces), then 0.025 more or less."""
    best = published.Rule(face=0.75, look=0.85, face_height=1)
    lowest = measure(cases, by_rule(best))["error"]
    for steps in (np.arange(0.5, 0.96, 0.05), np.array([-0.025, 0.025])):
        for name in ("look",) if what == "things" else ("look", "face"):
            middle = getattr(best, name) if len(steps) == 2 else 0.0
            for threshold in (middle + steps).round(3).tolist():
                rule = replace(best, **{name: threshold})
                if (error := measure(cases, by_rule(rule))["error"]) < lowest:
                    best, lowest = rule, error
    return best


def measure(cases: list[Case], find: Find) -> Scores:
    """Mean errors over all stories: 1 - IDF1, over-merging (1 - B-cubed precision) and under-merging (1 - B-cubed recall), by
    `storyreason.scoring.identity`."""
    counts = []
    for case in cases:
        names, shown = list(find(case).names), [str(one) for one in case.truth.tolist()]
        counts += [_count(case.film, shown, names, rows.tolist()) for rows in case.stories]

    def mean(key: str) -> float:
        return round(float(np.mean([1 - one[key] / one["identity/reference"] for one in counts])), 4)

    return {
        "error": mean("identity/idtp"),
        "over-merging": mean("identity/bcubed_precision"),
        "under-merging": mean("identity/bcubed_recall"),
    }


def _count(film: Film, truth: list[str], names: list[str], rows: list[int]) -> Scores:
    def listed(ids: list[str]) -> list[EntityBox]:
        return [EntityBox(ids[at], "char", int(film.frames[at]), Box(0, 0, 1, 1)) for at in rows]

    reference, predicted = listed(truth), listed(names)
    idtp, matched = scoring.match(reference, predicted, [Pair(at, at, 1.0) for at in range(len(rows))])
    return scoring.count(reference, predicted, idtp, matched)


@app.command()
def speed(detections: int, out: Path = RESULTS) -> None:
    """Seconds and peak memory of `storyreason identify` for one film of so many detections, on one core."""
    model = films.Model.of(np.random.default_rng(EVALUATION), face=512, look=768)
    film, truth = films.film(EVALUATION, 1.4, detections, model=model)
    with tempfile.TemporaryDirectory() as folder:
        given, ids = Path(folder, "detections.parquet"), Path(folder, "ids.parquet")
        pq.write_table(films.table(film), given)
        command = [str(Path(sys.executable).with_name("storyreason")), "identify", str(given), "--out", str(ids)]
        one_core = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        start = time.perf_counter()
        subprocess.run(["taskset", "-c", "0", *command], check=True, env={**os.environ, **one_core})
        seconds = time.perf_counter() - start
        names = pq.read_table(ids).column("entity").to_pylist()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # memory in KiB, of the largest process that has ended
    case = Case(film, truth, [np.arange(len(film))])
    errors = measure([case], lambda _: identity.Entities(names, np.zeros(0)))
    times = {"seconds": round(seconds, 1), "CPU seconds": round(used.ru_utime + used.ru_stime, 1)}
    found = {**times, "peak MiB": round(used.ru_maxrss / 1024), **errors}
    console.print(f"{detections} detections: {found}")
    _store(out, f"speed {detections}", found, f"speed {detections}")


@app.command()
def probabilities(count: int = 2, out: Path = RESULTS) -> None:
    """How often a detection is where most of its entity's belong, by the probability that `identify` gives it."""
    model = films.Model.of(np.random.default_rng(EVALUATION))
    told: list[tuple[float, bool]] = []
    for seed, noise in itertools.product(range(count), films.NOISES):
        film, truth = films.film(EVALUATION + seed, noise, 1000, model=model)
        entities = identity.identify(film)
        shown: dict[str, Counter[int]] = defaultdict(Counter)
        for name, one in zip(entities.names, truth.tolist(), strict=True):
            shown[name][one] += 1
        main = {name: counts.most_common(1)[0][0] for name, counts in shown.items()}
        right = [main[name] == one for name, one in zip(entities.names, truth.tolist(), strict=True)]
        told += [pair for pair in zip(entities.probabilities.tolist(), right, strict=True) if pair[0] == pair[0]]
    found = {}
    for low, high in itertools.pairwise((0.5, 0.7, 0.9, 0.97, 1.001)):
        inside = [right for probability, right in told if low <= probability < high]
        found[f"{low} to {min(high, 1)}"] = {"detections": len(inside), "right": round(float(np.mean(inside)), 3)}
    console.print(found)
    _store(out, "probabilities", found, f"probabilities --count {count}")


def _print(title: str, rows: dict[str, dict[str, Scores]]) -> None:
    table = Table("", "method", "error", "over-merging", "under-merging", title=title)
    for name, methods in rows.items():
        for method, scores in methods.items():
            table.add_row(name, method, *(f"{scores[key]:.3f}" for key in ("error", "over-merging", "under-merging")))
    console.print(table)


def _store(out: Path, name: str, found: Mapping[str, object], command: str) -> None:
    """Keep a result beside those that are stored."""
    stored = json.loads(out.read_text()) if out.is_file() else {}
    found = {**stored.get(name, {}).get("result", {}), **found}
    stored[name] = {"command": f"python benchmarks/identity.py {command}", "processor": _processor(), "result": found}
    out.write_text(json.dumps(stored, indent=1) + "\n")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    app()
