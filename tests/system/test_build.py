"""`storyreason build`: from films to a data version that a retraining takes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from storyreason import dataset
from storyreason.dataset import withdrawn
from storyreason.sample import movie
from tasks import builds
from tests.storyreason.authoring import scripted
from tests.storyreason.perception import videos
from tests.system.conftest import Project

pytestmark = pytest.mark.server


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Two films of the sample world, and three that nothing can be made of."""
    folder = tmp_path / "films"
    for seed in (7, 8):
        movie.write(folder, seed, 8)
    (folder / "damaged.mp4").write_text("no video")
    videos.write(folder / "dark.mp4", [np.zeros((96, 160, 3), np.uint8)] * 30)
    videos.write(folder / "unknown.mkv", videos.shots(30))
    return folder


def seldom(data: Path) -> tuple[str, str]:
    """A film with several stories, and a person who is in one of them."""
    told: dict[str, list[str]] = {}
    for one in (one for split in dataset.SPLITS for one in dataset.load(data, split)):
        told.setdefault(withdrawn.film_of(one), []).append(one.chain_of_thought)
    film, texts = max(told.items(), key=lambda item: len(item[1]))
    people = (f"char{number}" for number in range(1, 99))
    return film, next(person for person in people if sum(f"| {person} |" in text for text in texts) == 1)


def test_films_become_a_data_version_that_a_retraining_takes(project: Project, films: Path, tmp_path: Path) -> None:
    wrong = {"film": "film-7", "frame": 99999, "box": [1, 2, 3, 4]}
    lines = [{"merge": [wrong, wrong]}, {"split": [{**wrong, "film": 9}] * 2}]
    (tmp_path / "corrections.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with scripted.endpoint(models=["storyteller", "gpt"]) as endpoint:
        preset = tmp_path / "mine.yaml"
        preset.write_text(
            f"films: {{detector: 'truth:{films}', faces: none}}\n"
            f"authoring: {{endpoint: '{endpoint.url}', grammars: false, test_share: 0.3, price_out: 10}}\n"
        )
        build = ["build", str(films), "--preset", str(preset), "--corrections", str(tmp_path / "corrections.jsonl")]

        assert "has no model 'claude', only gpt, storyteller" in project.run(*build, "--author", "claude", code=2)
        assert not (project.runs / "extract").exists()

        said = project.run(*build, "--until", "sheets")
        for sentence in (
            "film 5 of 5: unknown",
            "damaged.mp4 cannot be read as a video",
            "dark.mp4 is left out: none of its frames shows anything",
            "The truth of film 'unknown' is not known",
            "No detection is at frame 99999",
            "is of film '9', in which nothing is detected here: it is left out.",
            "contact sheet of film-7: ",
        ):
            assert sentence in said
        assert endpoint.bodies == [] and len(list((project.runs / "sheet").glob("*/sheet.html"))) == 2
        seen = {path: path.stat().st_mtime_ns for path in project.runs.glob("[de]*/*/*.parquet")}

        refused = project.run(*build, "--author", "gpt", "--max-cost", "0.0001", code=2)
        assert "authoring.max_cost = 0.0001 is not enough" in refused.splitlines()[-1] and endpoint.bodies == []

        said = project.run(*build, "--licence", "cc-by-4.0", "--target", "films.dvc")
        asked = len(endpoint.bodies)
        told = re.search(r"(\d+) stories, (\d+) windows left out", said)
        assert told and int(told[1]) >= 5 > int(told[2]) and "is pushed to" in said
        assert {path: path.stat().st_mtime_ns for path in seen} == seen

        film, person = seldom(project.folder / "films")
        said = project.run("data", "withdraw", film, "--entity", person, "--target", "films.dvc")
        assert "films/withdrawn.jsonl lists it" in said and "data version" in said
        said = project.run(*build, "--licence", "cc-by-4.0", "--target", "films.dvc")
        assert re.search(rf"\d+ of \d+ frames of {film} are left out: they show what was withdrawn", said)
        assert asked < len(endpoint.bodies) < 2 * asked  # what is told of the other film is known
        assert sum(path.exists() and path.stat().st_mtime_ns == seen[path] for path in seen) >= 2  # so is what it shows

    (record,) = map(builds.Record, (project.runs / "builds").iterdir())
    assert list(record.published.values()) == ["films.dvc"] and len(record.folders) == len(set(record.folders)) + 1
    assert {name.partition("/")[0] for name in record.folders} == set(builds.FOLDERS) - {"groundcap", "landmarks"}

    data = project.folder / "films"
    assert "license: cc-by-4.0" in (data / "README.md").read_text()
    every = [one for split in dataset.SPLITS for one in dataset.load(data, split)]
    (gone,) = withdrawn.read(data)
    assert every and gone.places and not any(gone.shown_by(one) for one in every)
    project.run("check", str(data))
    project.run(*project.retrain("--until", "pull", "--set", "data.target=films.dvc"))
