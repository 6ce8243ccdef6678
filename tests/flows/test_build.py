"""What a build would find out after it has paid it says before, and looking alone costs nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from flows.build import build
from storyreason.dataset import Withdrawn
from storyreason.errors import ConfigError, DataError
from storyreason.sample import movie
from tasks import withdrawing
from tasks.steps import Step
from tests.storyreason.authoring import films, scripted


@pytest.fixture(autouse=True)
def _without_prefect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(Step, "__call__", Step.compute)
    with disable_run_logger():
        yield


def built(kept: Path, endpoint: scripted.Endpoint, landmarks: str = "", **asked: Any) -> Any:
    (kept / "mine.yaml").write_text(
        f"authoring: {{endpoint: '{endpoint.url}', grammars: false, pause: 0, retries: 0, landmarks: [{landmarks}]}}\n"
    )
    return build.fn(str(kept), str(kept / "mine.yaml"), **asked)


def named(body: dict[str, Any], _: int) -> str:
    return json.dumps({"landmarks": []}) if "response_format" in body else scripted.right(body)


def test_sheets_cost_nothing_though_landmarks_are_to_be_named(tmp_path: Path) -> None:
    kept = films.write(tmp_path / "films", films=2)
    with scripted.endpoint(named, models=["storyteller"]) as endpoint:
        plain = built(kept, endpoint, until="sheets")
        told = built(kept, endpoint, "umbrella", until="sheets")
        assert endpoint.bodies == [] and len(told.sheets) == 2
        more = int(told.expected.split()[0]) - int(plain.expected.split()[0])
        assert more > 0  # what naming will cost is in the estimate

        assert built(kept, endpoint, "umbrella").stories == 4
        assert sum("response_format" in body for body in endpoint.bodies) == more
        asked = len(endpoint.bodies)
        built(kept, endpoint, "umbrella", until="sheets")
        assert len(endpoint.bodies) == asked


def test_a_wrong_model_is_said_before_it_is_asked_and_not_when_all_is_written(tmp_path: Path) -> None:
    kept = films.write(tmp_path / "films", films=2)
    with scripted.endpoint(named, models=["gpt"]) as endpoint:
        for landmarks in ("", "umbrella"):
            with pytest.raises(ConfigError, match="has no model 'storyteller', only gpt"):
                built(kept, endpoint, landmarks)
        assert endpoint.bodies == []
        folder = built(kept, endpoint, author="gpt").folder
    assert built(kept, endpoint, author="gpt").folder == folder  # the endpoint is gone


ALONE = r"is the only film, and films\.dvc needs one for training and one for test"


@pytest.mark.parametrize("landmarks", ["", "umbrella"])
def test_one_film_for_a_target_is_refused_before_it_is_paid(landmarks: str, tmp_path: Path) -> None:
    kept = films.write(tmp_path / "films", films=1)
    with scripted.endpoint(named, models=["storyteller"]) as endpoint:
        with pytest.raises(DataError, match=ALONE):
            built(kept, endpoint, landmarks, target="films.dvc")
        assert endpoint.bodies == []
        assert list(built(kept, endpoint, landmarks, target="films.dvc", until="sheets").sheets) == [
            "black-bicycle-481"
        ]


def test_films_of_which_one_is_withdrawn_are_one_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = films.write(tmp_path / "films", films=2)
    monkeypatch.setattr(withdrawing, "listed", lambda target: [Withdrawn(film="red-lantern-482")])
    with scripted.endpoint(named, models=["storyteller"]) as endpoint:
        with pytest.raises(DataError, match=f"black-bicycle-481 {ALONE}"):
            built(kept, endpoint, "umbrella", target="films.dvc")
        assert endpoint.bodies == []


def test_one_film_for_a_target_is_refused_before_it_is_read(tmp_path: Path) -> None:
    movie.write(tmp_path / "films", 7, 2)
    with scripted.endpoint(models=["storyteller"]) as endpoint, pytest.raises(DataError, match=f"film-7 {ALONE}"):
        built(tmp_path / "films", endpoint, target="films.dvc")
    assert not (tmp_path / "runs" / "extract").exists()
