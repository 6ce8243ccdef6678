"""What a form shows of a parameter: its description says what may be entered."""

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from storyreason import forms
from storyreason.config import RunConfig


class Form(BaseModel):
    model_config = ConfigDict(json_schema_extra=forms.describe)

    rate: float = Field(2e-4, gt=0, le=1, description="The rate.")
    rows: int = Field(16, ge=1, le=4096, description="Rows.")
    steps: int | None = Field(None, ge=1, description="Stop after so many; empty: never.")
    share: float = Field(0.5, ge=0, lt=1, description="A share.")
    name: str = Field("a", description="A name.")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rate", "The rate. Above 0, at most 1; default 0.0002."),
        ("rows", "Rows. 1 to 4096; default 16."),
        ("steps", "Stop after so many; empty: never. At least 1."),
        ("share", "A share. At least 0, below 1; default 0.5."),
        ("name", "A name."),
    ],
)
def test_range_and_default_stand_in_the_description(name: str, said: str) -> None:
    assert Form.model_json_schema()["properties"][name]["description"] == said


def numbers(schema: dict[str, Any]) -> dict[str, Any]:
    """By place, each parameter that is a number with bounds."""
    found = {}
    for group, definition in schema["$defs"].items():
        for name, field in definition.get("properties", {}).items():
            kinds = [field, *field.get("anyOf", ())]
            if any({"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"} & kind.keys() for kind in kinds):
                found[f"{group}.{name}"] = field
    return found


def test_every_number_of_a_run_says_its_range() -> None:
    found = numbers(RunConfig.model_json_schema())
    assert len(found) > 30
    words = ("At least ", "Above ", " to ", "At most ", "Below ")
    assert [place for place, field in found.items() if not any(word in field["description"] for word in words)] == []
