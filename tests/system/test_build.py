"""`storyreason build`: from recognized frames to a data version that a retraining takes."""

import json
from pathlib import Path

import pytest

from storyreason import dataset
from tests.storyreason.authoring import films, scripted
from tests.system.conftest import Project

pytestmark = pytest.mark.server


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return films.write(tmp_path / "frames", films=4)


def test_frames_become_a_data_version_that_a_retraining_takes(project: Project, kept: Path, tmp_path: Path) -> None:
    wrong = {"film": "red-lantern-482", "frame": 999, "box": [1, 2, 3, 4]}
    (kept / "corrections.jsonl").write_text(json.dumps({"merge": [wrong, wrong]}) + "\n")
    with scripted.endpoint() as endpoint:
        preset = tmp_path / "mine.yaml"
        preset.write_text(
            f"authoring: {{endpoint: '{endpoint.url}', grammars: false, test_share: 0.3, price_out: 10}}\n"
        )
        build = ["build", str(kept), "--preset", str(preset), "--corrections", str(kept / "corrections.jsonl")]

        said = project.run(*build, "--until", "sheets")
        assert "contact sheet of red-lantern-482: " in said and "expected: 16 requests" in said
        assert "No detection is at frame 999" in said and endpoint.bodies == []
        assert len(list((project.runs / "sheet").glob("*/sheet.html"))) == 4

        refused = project.run(*build, "--author", "gpt", "--max-cost", "0.0001", code=2)
        assert "authoring.max_cost = 0.0001 is not enough" in refused.splitlines()[-1] and endpoint.bodies == []

        said = project.run(*build, "--licence", "cc-by-4.0", "--target", "films.dvc")
        asked = len(endpoint.bodies)
        assert asked == 16 and "8 stories, 0 windows left out" in said and "is pushed to" in said
        assert "nothing changed" in project.run(*build, "--licence", "cc-by-4.0", "--target", "films.dvc")
        assert len(endpoint.bodies) == asked

    data = project.folder / "films"
    assert "license: cc-by-4.0" in (data / "README.md").read_text()
    assert sum(len(dataset.load(data, split)) for split in dataset.SPLITS) == 8
    project.run("check", str(data))
    project.run(*project.retrain("--until", "pull", "--set", "data.target=films.dvc"))
