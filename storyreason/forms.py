"""A configuration as a form: the description of each parameter states its bounds, which forms do not show."""

from typing import Any


def describe(schema: dict[str, Any]) -> None:
    """Add the range and default of each number to its description, in the JSON schema of a configuration.

    `Field(2e-4, gt=0, le=1, description="The highest learning rate.")` becomes "The highest learning rate. Above 0, at
    most 1; default 0.0002." Pass it as `ConfigDict(json_schema_extra=…)`.
    """
    for field in schema.get("properties", {}).values():
        numbers = [one for one in (field, *field.get("anyOf", ())) if one.get("type") in ("integer", "number")]
        if not numbers:
            continue
        default = field.get("default")
        said = [_range(numbers[0]), f"default {default}" if default is not None else ""]
        text = "; ".join(part for part in said if part)
        field["description"] = (
            f"{field.get('description', '')} {text[:1].upper()}{text[1:]}{'.' if text else ''}".strip()
        )


def _range(bounds: dict[str, Any]) -> str:
    if "minimum" in bounds and "maximum" in bounds:
        return f"{bounds['minimum']} to {bounds['maximum']}"
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return ", ".join(f"{word} {bounds[name]}" for name, word in words.items() if name in bounds)
