"""A data set of films is built in steps: each computed once, killed and resumed without paying or writing anything twice."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storyreason import dataset
from storyreason.errors import ConfigError, DataError, StoryReasonError
from tasks.faults import from_outside
from tests.storyreason.authoring import films, scripted
from tests.tasks.building import storm, whole

KILLS = 3


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three films of the sample world."""
    return films.write(tmp_path_factory.mktemp("films"), films=3)


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))  # put back afterwards


def test_a_build_is_a_data_set_and_is_not_paid_twice(kept: Path, tmp_path: Path) -> None:
    with scripted.endpoint() as endpoint:
        folder = whole(kept, tmp_path / "runs", endpoint.url)
        asked = len(endpoint.bodies)
        assert asked == 2 * sum(len(dataset.load(folder, split)) for split in dataset.SPLITS) == 12
        assert not dataset.check(folder).bad

        assert whole(kept, tmp_path / "runs", endpoint.url) == folder  # all of it is there
        again = whole(kept, tmp_path / "runs", endpoint.url, licence="cc0-1.0")  # only the card is new
        assert again != folder and len(endpoint.bodies) == asked
        assert "license: cc0-1.0" in (again / "README.md").read_text()

        whole(kept, tmp_path / "runs", endpoint.url, attempts=4)  # other stories may come of it, from the same replies
        assert len(endpoint.bodies) == asked
        whole(kept, tmp_path / "runs", endpoint.url, seed=7)
        assert len(endpoint.bodies) == 2 * asked


def test_what_films_cost_is_added_up(kept: Path, tmp_path: Path) -> None:
    prices: dict[str, Any] = {"price_in": 1000.0, "price_out": 0.001, "concurrency": 1}  # a call costs 1.00
    with scripted.endpoint() as endpoint:
        with pytest.raises(ConfigError, match="max_cost = 7 is not enough"):
            whole(kept, tmp_path / "runs", endpoint.url, max_cost=7.0, **prices)
        paid = len(endpoint.bodies)
        assert 4 <= paid <= 7
        folder = whole(kept, tmp_path / "runs", endpoint.url, max_cost=70.0, **prices)
        assert len(endpoint.bodies) == 12
    assert "12 requests, 12,000 tokens in and 1,200 out, 12.00; 0 refusals" in (folder / "README.md").read_text()


def test_what_was_done_without_prices_counts_by_those_of_today(kept: Path, tmp_path: Path) -> None:
    with scripted.endpoint() as endpoint:
        whole(kept, tmp_path / "runs", endpoint.url)
        *_, last = sorted((tmp_path / "runs" / "author").iterdir())
        shutil.rmtree(last)
        shutil.rmtree(tmp_path / "runs" / "calls")
        with pytest.raises(ConfigError, match=r"max_cost = 8.5 is not enough: 8\.\d+ is spent"):  # two films of 4 calls
            whole(kept, tmp_path / "runs", endpoint.url, price_in=1000.0, price_out=0.001, max_cost=8.5)


def test_landmarks_are_named_before_entities_are_recognized(kept: Path, tmp_path: Path) -> None:
    def script(body: dict[str, Any], _: int) -> str:
        if "response_format" in body:
            return json.dumps({"landmarks": [{"box": 1, "name": "the red gate"}]})
        return scripted.right(body)

    with scripted.endpoint(script) as endpoint:
        folder = whole(kept, tmp_path / "runs", endpoint.url, landmarks=["umbrella"])
        asked = len(endpoint.bodies)
        whole(kept, tmp_path / "runs", endpoint.url, landmarks=["umbrella"], attempts=3)
        assert len(endpoint.bodies) == asked > 12
    assert f"- Authoring: {asked} requests, {asked},000 tokens in" in (folder / "README.md").read_text()
    told = [one for split in dataset.SPLITS for one in dataset.load(folder, split)]
    assert any("| lm1 | The red gate, " in one.chain_of_thought for one in told)


def test_what_an_endpoint_rejected_is_asked_again_by_the_next_build(kept: Path, tmp_path: Path) -> None:
    def small(body: dict[str, Any], number: int) -> scripted.Response | str:
        """It takes the requests of the first film alone."""
        return scripted.right(body) if number < 4 else scripted.error(400, "the context is too short")

    with scripted.endpoint(small) as endpoint:
        first = whole(kept, tmp_path / "runs", endpoint.url)
    with scripted.endpoint() as endpoint:
        second = whole(kept, tmp_path / "runs", endpoint.url)
        asked = len(endpoint.bodies)
        assert whole(kept, tmp_path / "runs", endpoint.url) == second and len(endpoint.bodies) == asked
    stories = [sum(len(dataset.load(folder, split)) for split in _splits(folder)) for folder in (first, second)]
    assert first != second and stories == [2, 6]
    assert asked == 8  # what was answered is kept


def _splits(folder: Path) -> list[str]:
    return [split for split in dataset.SPLITS if list(folder.glob(f"{split}-*.parquet"))]


def test_a_build_of_which_all_was_rejected_is_asked_again(kept: Path, tmp_path: Path) -> None:
    def rejecting(*_: Any) -> scripted.Response:
        return scripted.error(400, "the context is too short")

    def script(body: dict[str, Any], _: int) -> str:
        return json.dumps({"landmarks": []}) if "response_format" in body else scripted.right(body)

    with scripted.endpoint(rejecting) as endpoint, pytest.raises(DataError, match="the context is too short"):
        whole(kept, tmp_path / "runs", endpoint.url, landmarks=["umbrella"])
    with scripted.endpoint(script) as endpoint:
        folder = whole(kept, tmp_path / "runs", endpoint.url, landmarks=["umbrella"])
        assert any("response_format" in body for body in endpoint.bodies)
    assert sum(len(dataset.load(folder, split)) for split in dataset.SPLITS) == 6


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_what_the_endpoint_tells_every_request_is_not_tried_again(status: int, kept: Path, tmp_path: Path) -> None:
    with scripted.endpoint(lambda *_: scripted.error(status, "no")) as endpoint:
        with pytest.raises(StoryReasonError, match=f"rejected the request with {status}: no") as caught:
            whole(kept, tmp_path / "runs", endpoint.url)
        assert len(endpoint.bodies) == 1
    assert not from_outside(None, None, Failed(caught.value))


class Failed:
    """A task's state that has only a result."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self) -> None:
        raise self._error


def test_each_correction_that_applies_nowhere_is_said(kept: Path, tmp_path: Path) -> None:
    from tasks import building

    of = {"frame": 101, "box": [1, 2, 3, 4]}
    films_ = ("red-lantern-482", "blue", 7)
    lines = [json.dumps({"merge": [{"film": film, **of}, {"film": film, **of}]}) for film in films_]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    table = building.Tables(kept, kept / "detections.parquet")
    assert building.elsewhere(tmp_path / "mine.jsonl", [table]) == [
        f"Correction {number} of {tmp_path / 'mine.jsonl'} is of film '{film}', in which nothing is detected here: it is left "
        "out."
        for number, film in ((2, "blue"), (3, "7"))
    ]
    rows = pq.read_table(kept / "detections.parquet")
    film = pa.array([7] * len(rows))
    pq.write_table(rows.set_column(rows.schema.get_field_index("film"), "film", film), tmp_path / "numbered.parquet")
    numbered = building.Tables(kept, tmp_path / "numbered.parquet")
    assert len(building.elsewhere(tmp_path / "mine.jsonl", [table, numbered])) == 1
    assert building.elsewhere(None, [table]) == []


@pytest.mark.server
def test_a_build_that_was_killed_at_random_has_the_bytes_of_an_unbroken_one(kept: Path, tmp_path: Path) -> None:
    storm(kept, tmp_path, KILLS)
