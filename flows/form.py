"""The forms that start runs in Prefect: a few fields (an empty one means the preset's value), and `overrides` for the rest.

Prefect's server checks what a form sends against the flow's parameters, before a run exists: kinds, ranges, and the names in
`overrides`. What only the whole configuration can tell ends a run at its start, with one sentence.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from storyreason import config
from storyreason.config import RunConfig
from storyreason.errors import ConfigError
from tasks import compat

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

FIELDS = {
    "data_rev": "data.rev",
    "train_stories": "data.train_stories",
    "test_stories": "data.test_stories",
    "mode": "training.mode",
    "learning_rate": "training.learning_rate",
    "epochs": "training.epochs",
    "accelerate": "training.accelerate",
    "min_gain": "gate.min_gain",
    "approval": "gate.approval",
    "author": "authoring.model",
    "max_cost": "authoring.max_cost",
}
"""The fields of forms that stand for one key of the configuration."""

Stories = Annotated[int, Field(ge=1)] | None
Mode = Literal["lora", "full", "language"] | None
Rate = Annotated[float, Field(gt=0, le=1)] | None
Epochs = Annotated[float, Field(gt=0, le=1000)] | None
Gain = Annotated[float, Field(ge=-1, le=1)] | None
Cost = Annotated[float, Field(gt=0)] | None
Approval = Literal["none", "ask"] | None


def _check_of_overrides() -> dict[str, Any]:
    """JSON schema: refuse what no key of the configuration takes, with a message that can be read."""
    schema = RunConfig.model_json_schema()
    known = "|".join(_patterns(schema, schema, ""))
    said = "KEY=VALUE, with a key of the configuration and a value of its kind, such as training.learning_rate=1e-4"
    return {"if": {"pattern": f"^({known})$"}, "else": {"enum": [said]}}  # a pattern's own message would be the pattern


def _patterns(group: dict[str, Any], schema: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, field in group["properties"].items():
        key = re.escape(prefix + name)
        inner = schema["$defs"].get(field.get("$ref", "").rpartition("/")[2])
        if inner is not None and "properties" in inner:
            yield from _patterns(inner, schema, f"{prefix}{name}.")
        else:
            yield f"{key}=({_values(inner or field)})"


def _values(field: dict[str, Any]) -> str:
    """A pattern of the texts that YAML reads as this kind of value."""
    if "anyOf" in field:
        return "|".join(_values(one) for one in field["anyOf"])
    if "enum" in field:
        return "|".join(re.escape(str(one)) for one in field["enum"])
    return {
        "null": "|~|null",
        "boolean": "true|false|yes|no|on|off",
        "integer": r"[-+]?\d[\d_]*",
        "number": r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?",
    }.get(field.get("type", ""), ".*")


Override = Annotated[str, Field(json_schema_extra=_check_of_overrides())]
Overrides = list[Override] | None


def chosen(preset: str, overrides: Iterable[str] | None, **fields: Any) -> RunConfig:
    """The configuration that a form describes. Raises ConfigError, which names the key, what was found and what was expected."""
    given = {FIELDS[name]: value for name, value in fields.items() if value not in (None, "")}
    others = list(overrides or ())
    for key in given:
        if any(one.partition("=")[0] == key for one in others):
            raise ConfigError(f"{key} is set by its own field and by overrides: leave one of them empty.")
    return config.load_here(preset, [*(f"{key}={json.dumps(value)}" for key, value in given.items()), *others])


def run_name() -> str:
    """The name of a flow run: the one that a person gave it, else what it does: `retrain-sample learning_rate=0.002`."""
    from prefect.runtime import flow_run

    given, parameters = str(flow_run.get_name() or ""), flow_run.get_parameters()
    if given and not compat.made_up(given):
        return given
    what = parameters.get("which") or parameters["preset"]
    changed = [f"{name}={parameters[name]}" for name in FIELDS if parameters.get(name) not in (None, "")]
    return " ".join([f"{flow_run.get_flow_name()}-{what}", *changed, *(parameters.get("overrides") or ())])[:200]


def fill(deployment: "RunnerDeployment", preset: str, choices: Iterable[str]) -> None:
    """Say in a deployment's form what an empty field means with its preset, and offer these presets."""

    values = config.load(preset).flat()
    properties = compat.form_of(deployment)
    for name, key in FIELDS.items():
        if name in properties:
            value = "nothing" if values[key] is None else values[key]
            properties[name]["description"] += f" Empty: the preset's, {value}."
    for name, field in properties.items():
        if (
            "anyOf" in field
        ):  # Prefect would ask for the kind of value first, and the server takes an empty field as it is
            shown = {key: value for key, value in field.items() if key not in ("anyOf", "default")}
            properties[name] = field["anyOf"][0] | shown
    properties["preset"]["enum"] = list(choices)
    deployment.parameters = {"preset": preset}
    compat.refuse_unknown_parameters(deployment)
