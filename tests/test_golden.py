"""Frozen values: fingerprints, names and formats. `tests/frozen.py` says how to change one on purpose."""

from typing import Any

import pytest
from pydantic import BaseModel, create_model

from storyreason.config import RunConfig, load
from tests import frozen

EVALUATIONS = {"evaluate base", "evaluate challenger"}


@pytest.mark.parametrize("name", frozen.WHOLE)
def test_frozen_value_is_unchanged(name: str) -> None:
    assert frozen.WHOLE[name]() == frozen.read(name)


@pytest.mark.parametrize("name", frozen.NAMES)
def test_frozen_names_still_exist(name: str) -> None:
    missing = list(frozen.missing(frozen.read(name), frozen.NAMES[name]()))
    assert not missing


@pytest.mark.parametrize(
    ("group", "steps"), [("training", {"train", "register", "evaluate challenger"}), ("generation", EVALUATIONS)]
)
def test_new_key_at_its_default_leaves_every_fingerprint_unchanged(group: str, steps: set[str]) -> None:
    run = load("smoke")
    kept = frozen.read("fingerprints")["presets"]["smoke"]

    assert frozen.fingerprints(_with_a_new_key(run, group)) == kept
    # Any other value changes the steps that depend on it.
    changed = frozen.fingerprints(_with_a_new_key(run, group, novelty=2))
    assert {step for step, name in changed.items() if name != kept[step]} == steps


def _with_a_new_key(run: RunConfig, group: str, **given: int) -> RunConfig:
    settings: BaseModel = getattr(run, group)
    later: Any = create_model("Later", __base__=type(settings), novelty=(int, 1))
    return run.model_copy(update={group: later(**settings.model_dump(), **given)})
