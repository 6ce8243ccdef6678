"""The forms that start runs: their fields, what an empty one means, and the names of runs."""

import inspect
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import ValidationError, validate

from flows import form
from flows.build import build
from flows.deploy import deploy
from flows.evaluate import evaluate
from flows.retrain import retrain
from storyreason.config import RunConfig, load
from storyreason.errors import ConfigError
from tasks import compat

FLOWS = {"retrain": retrain, "evaluate": evaluate, "deploy": deploy, "build": build}


@pytest.mark.parametrize("flow", FLOWS.values(), ids=list(FLOWS))
def test_a_form_has_at_most_12_described_fields_whose_ranges_are_the_configurations(flow: Any) -> None:
    fields = parameter_schema(flow.fn).properties
    assert len(fields) <= 12
    assert all(one["description"] for one in fields.values())
    schema = RunConfig.model_json_schema()
    for name in form.FIELDS.keys() & fields.keys():
        group, key = form.FIELDS[name].split(".")
        kind = schema["$defs"][schema["properties"][group]["$ref"].rpartition("/")[2]]["properties"][key]
        kind = {k: v for k, v in kind.get("anyOf", [kind])[0].items() if k not in ("title", "description", "default")}
        assert fields[name]["anyOf"] == [kind, {"type": "null"}], name


def test_every_field_of_a_key_reaches_the_configuration() -> None:
    given = {
        "mode": "lora",
        "learning_rate": 0.5,
        "epochs": 2.0,
        "train_stories": 3,
        "test_stories": 4,
        "data_rev": "v1",
    }
    others = {"accelerate": "cpu", "min_gain": -0.5, "approval": "ask", "author": "gpt", "max_cost": 5.0}
    assert {*given, *others} == form.FIELDS.keys()

    flat = form.chosen("smoke", ["training.rank=8", "authoring.price_out=1"], **given, **others).flat()

    assert {name: flat[key] for name, key in form.FIELDS.items()} == given | others
    assert flat["training.rank"] == 8
    assert form.chosen("smoke", None, mode=None, data_rev="") == load("smoke")


def test_a_key_that_is_set_twice_and_a_fault_between_two_keys_are_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"training\.mode is set by its own field and by overrides"):
        form.chosen("smoke", ["training.mode=full"], mode="lora")
    with pytest.raises(ConfigError, match=r"gate\.primary is a score of grounded decoding"):
        form.chosen("sample", ["evaluation.decodings=[free]"])
    with pytest.raises(ConfigError, match=r"did you mean 'training\.learning_rate'"):
        form.chosen("sample", ["training.lerning_rate=1"])


@pytest.mark.parametrize("name", ["sparkling-otter", "beta2-leonis-b", "alpha87-canis-majoris", "omega-ixil"])
def test_a_name_that_prefect_made_up_is_recognized(name: str) -> None:
    assert compat.made_up(name)


@pytest.mark.parametrize("name", ["my second try", "try-again-7", "retrain-sample", "ablation", "lower-rate"])
def test_a_name_that_a_person_gave_is_not_made_up(name: str) -> None:
    assert not compat.made_up(name)


def test_names_that_prefects_server_makes_up_are_recognized() -> None:
    from prefect.utilities.names import generate_slug

    assert all(compat.made_up(generate_slug(2)) for _ in range(200))


def test_the_command_line_and_the_form_take_the_same_parameters() -> None:
    assert list(inspect.signature(retrain.fn).parameters)[-2:] == ["until", "overrides"]


def test_an_empty_field_needs_no_choice_of_its_kind_and_is_accepted() -> None:
    made: Any = retrain.to_deployment("retrain-smoke")
    form.fill(made, "smoke", ["smoke"])
    schema = made._parameter_openapi_schema.model_dump(exclude_unset=True)

    assert [name for name, field in schema["properties"].items() if "anyOf" in field] == []
    rate = schema["properties"]["learning_rate"]
    assert (rate["type"], rate["exclusiveMinimum"], rate["maximum"]) == ("number", 0, 1)
    for good in ({}, {"learning_rate": None, "overrides": None}, {"learning_rate": 0.1, "mode": "lora"}):
        validate({"preset": "smoke", **good}, schema, raise_on_error=True)
    with pytest.raises(ValidationError):
        validate({"preset": "smoke", "learning_rate": 7}, schema, raise_on_error=True)
