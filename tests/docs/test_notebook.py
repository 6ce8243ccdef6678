"""The three lines with which a notebook loads a registered version, on a machine that has to fetch it."""

import re
from typing import Any

import pytest
from mlflow import MlflowClient

from tasks import cache
from tests.docs.commands import REPOSITORY
from tests.tasks.test_cache import Machines, machines  # noqa: F401 (fixture)
from tests.tiny import tiny_base, tiny_bases, tiny_examples  # noqa: F401 (fixtures)

OPERATIONS = REPOSITORY / "docs" / "operations.md"


def test_the_lines_of_the_docs_load_the_champion(
    machines: Machines,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.settings.prepare", lambda: None)  # it sets the environment of the whole process
    (cell,) = re.findall(r"```python\n((?:(?!```).)*registered\(.*?)```", OPERATIONS.read_text(), re.S)
    lines = [line.strip().replace("storyteller@", "storyteller-smoke@") for line in cell.splitlines() if line.strip()]
    assert len(lines) == 3
    version = machines.register(1)
    MlflowClient().set_registered_model_alias(version.name, "champion", version.number)
    said = MlflowClient().get_model_version(version.name, version.number).description
    assert f"`storyreason fetch models:/{version.name}/{version.number}`" in str(said)
    machines.leave()
    there = machines.use("second")
    notebook: dict[str, Any] = {}

    exec("\n".join(lines), notebook)

    champion = notebook["champion"]
    assert champion.model.num_parameters() > 1e5 and champion.processor.tokenizer
    assert cache.is_held(there / "models" / version.identity)  # for as long as the notebook runs
