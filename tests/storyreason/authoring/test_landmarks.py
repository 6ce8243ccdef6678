"""A model names boxes of buildings under a JSON schema; what it names becomes a landmark of its own."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from storyreason import perception
from storyreason.authoring import landmarks
from storyreason.authoring.calls import Author, Budget
from storyreason.authoring.config import AuthoringConfig
from storyreason.perception import frames
from tests.storyreason.authoring import films, scripted
from tests.storyreason.authoring.scripted import Response, reply

FILM = "red-lantern-482"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A film in which umbrellas may be landmarks."""
    return films.write(tmp_path, films=2)


def told(body: dict[str, Any], called: str = "the red gate") -> str:
    """Names every box that is asked about."""
    count = len(re.findall(r"^\d+\. ", scripted.texts(body)[0], re.M))
    return json.dumps({"landmarks": [{"box": number, "name": called} for number in range(1, count + 1)]})


def named(
    folder: Path, script: Callable[[dict[str, Any], int], Response | str]
) -> tuple[dict[int, str], list[dict[str, Any]], list[str]]:
    """The names by row, the requests, and what was said."""
    said: list[str] = []
    with scripted.endpoint(script) as endpoint:
        config = AuthoringConfig(endpoint=endpoint.url, grammars=False, pause=0, retries=0)
        author = Author(config, folder / "calls", Budget(config))
        found = landmarks.candidates(folder / "detections.parquet", FILM, ["Umbrella"])
        names = landmarks.name(author, config, frames.read(folder, FILM), found, said.append)
    return names, endpoint.bodies, said


def test_what_is_named_is_an_entity_of_its_own_kind_and_keeps_its_name(folder: Path) -> None:
    names, bodies, said = named(folder, lambda body, _: told(body))

    assert set(names.values()) == {"the red gate"} and not said
    schema = bodies[0]["response_format"]["json_schema"]["schema"]["properties"]["landmarks"]["items"]
    assert schema["properties"]["box"]["enum"] == [1]
    assert "Names so far: none." in scripted.texts(bodies[0])[0]
    assert "Names so far: the red gate." in scripted.texts(bodies[1])[0]

    landmarks.write(folder / "detections.parquet", names, folder / "named.parquet")
    before, after = (pq.read_table(folder / f"{name}.parquet") for name in ("detections", "named"))
    assert after.drop_columns(["label"]) == before.drop_columns(["label"]) and after.schema == before.schema
    labels = after.column("label").to_pylist()
    assert {row for row, label in enumerate(labels) if label == "landmark: the red gate"} == names.keys()
    table = perception.Detections(folder / "named.parquet")
    entities = {name for film in table if film.name == FILM for name in perception.identify(film).names}
    assert "lm1" in entities and not any(one.startswith("obj") for one in entities)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ("The first one is a mill.", "landmarks-unreadable"),
        ('{"landmarks": [{"box": 7, "name": "the mill"}]}', "landmark-box"),
        ('{"landmarks": [{"box": 1, "name": "<b>mill"}]}', "landmark-name"),
        ('{"landmarks": [{"box": 1, "name": ""}]}', "landmark-name"),
    ],
)
def test_what_is_wrong_is_sent_back_and_never_kept(wrong: str, rule: str, folder: Path) -> None:
    names, bodies, said = named(folder, lambda body, number: wrong if number == 0 else told(body))
    assert names and not said and f"- {rule}: " in scripted.texts(bodies[1])[-1]


def test_a_reply_that_is_never_right_names_nothing(folder: Path) -> None:
    names, bodies, said = named(folder, lambda *_: "mill")
    assert names == {} and len(bodies) == 3 * len(said)
    assert all("has no landmarks: landmarks-unreadable" in one for one in said)


def test_a_frame_without_a_right_reply_has_none(folder: Path) -> None:
    names, bodies, said = named(folder, lambda *_: reply("", refusal="No."))
    assert names == {} and all("has no landmarks: refused: No." in one for one in said) and len(said) == len(bodies)
