"""docs/reference/ says what the code says today."""

import re
from pathlib import Path

import pytest

from docs import reference
from storyreason.config import RunConfig
from storyreason.format.rules import RULES


@pytest.mark.parametrize(("path", "text"), reference.pages().items(), ids=lambda one: getattr(one, "name", ""))
def test_a_page_is_current(path: Path, text: str) -> None:
    assert path.read_text() == text, "run `python docs/reference.py`"


def test_every_key_and_every_rule_has_a_row() -> None:
    keys, rules = reference.configuration(), reference.rules()
    assert [key for key in RunConfig().flat() if f"| `{key}` |" not in keys] == []
    assert [name for name in RULES if f"| `{name}` |" not in rules] == []


def test_no_cell_breaks_its_table() -> None:
    for path, text in reference.pages().items():
        for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
            bars = {row.replace("\\|", "").count("|") for row in table.splitlines()}
            assert len(bars) == 1, f"{path.name}: {table}"
