"""The command by which a deployment has somebody else's engine serve a version."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from storyreason.config import RunConfig
from storyreason.errors import GatewayError
from storyreason.serving.config import ServingConfig
from tasks.deployment import _roll
from tasks.registry import Version

VERSION = Version("storyteller", "7", "/models/a folder", "", "", "")


def config(command: str) -> RunConfig:
    return RunConfig(serving=ServingConfig(external="http://engine:8000", roll=command))


@pytest.fixture(autouse=True)
def without_a_flow() -> Iterator[None]:
    with disable_run_logger():
        yield


def test_it_knows_the_model_and_the_names_to_serve_it_under(tmp_path: Path) -> None:
    said = tmp_path / "said"
    _roll(config(f'echo "$STORYREASON_MODEL|$STORYREASON_VERSION|$STORYREASON_NAMES" > "{said}"'), VERSION)
    assert said.read_text() == "/models/a folder|models:/storyteller/7|storyteller storyteller-7\n"


def test_one_that_fails_is_one_sentence() -> None:
    with pytest.raises(GatewayError, match=r"^The command in serving\.roll ended with 3: no rights$"):
        _roll(config("echo first; echo no rights >&2; exit 3"), VERSION)
