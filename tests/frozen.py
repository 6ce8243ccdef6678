"""Values that must not change silently: fingerprints, and the names and formats that users and stored runs rely on.

The golden files are in `tests/golden/`.

`python -m tests.frozen` overwrites them with the current values. Commit such a change only together with the step's
`VERSION` and a line in the CHANGELOG.
"""

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storyreason.config import RunConfig

GOLDEN = Path(__file__).parent / "golden"
ROOT = "$ROOT"
"""Replaces the path of the checkout in values that contain one."""
DATA_MD5, BASE = "0123456789abcdef0123456789abcdef", "fedcba9876543210"
PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000003c0000002801000000008ac0a452000000104944415478da63f80f050ca30c5a32002d883e"
    "d09672d3510000000049454e44ae426082"
)
"""A 60 x 40 PNG, stored as bytes because another encoder version may write different ones."""


def read(name: str) -> Any:
    """The content of one golden file."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def fingerprints(run: "RunConfig") -> dict[str, str]:
    """The fingerprint of each step, for invented data and an invented base model."""
    from tasks import data, evaluation, registry, training, versioning
    from tasks.results import Pulled

    version = versioning.DataVersion(run.data.target, run.data.rev, DATA_MD5, f"{ROOT}/runs/data/{DATA_MD5}", "")
    pulled = Pulled(("data",), md5=DATA_MD5, rev=None, card="", faulty_test_stories={})
    train = training.fingerprint(run, DATA_MD5, BASE)
    register = registry.fingerprint(train, run.model, run.registry)
    improved = run.improve.method != "none"
    return {
        "pull": data.fingerprint(version),
        "train": train,
        **({"improve": training.improved_fingerprint(run, train)} if improved else {}),
        "register": register,
        "evaluate base": evaluation.fingerprint(run, evaluation.Subject("base", f"{ROOT}/base", BASE), pulled),
        "evaluate challenger": evaluation.fingerprint(
            run, evaluation.Subject("challenger", f"{ROOT}/model", register), pulled
        ),
    }


def all_fingerprints() -> dict[str, Any]:
    """The fingerprints of each preset, and those that change when one setting of the preset `sample` changes."""
    from storyreason.config import load, presets

    before = fingerprints(load("sample"))
    changed = {}
    for overrides in read("overrides"):
        after = fingerprints(load("sample", overrides.split()))
        changed[overrides] = {step: name for step, name in after.items() if name != before.get(step)}
    return {"presets": {preset: fingerprints(load(preset)) for preset in presets()}, "changed": changed}


def pages() -> dict[str, Any]:
    """The page's JSON for a flawed, a truncated, an unreadable and a streaming answer. Wording is not frozen."""
    from storyreason import page
    from storyreason.format import answer
    from storyreason.page.view import so_far

    told, scores = read("story"), {"strict/grounding/f1": 0.5, "paper/mAP": float("nan")}
    text, reference = told["prediction"], told["reference"]
    shown = {
        "flawed": page.view("beach-1", [PICTURE, PICTURE], text, reference, scores),
        "cut off": page.view("beach-1", [PICTURE, PICTURE], text[:1500]),
        "unreadable": page.view("beach-1", [PICTURE], "She waited.", reference),
        "being told": so_far("beach-1", [(60, 40), (60, 40)], answer.read(text[:1500])),
    }
    for one in shown.values():
        for problem in (problem for answer_ in one["answers"] for problem in answer_["problems"]):
            problem |= {"message": type(problem["message"]).__name__, "wanted": type(problem["wanted"]).__name__}
    return shown


def verbs() -> dict[str, Any]:
    """The arguments and options of each verb: spelling, kind and default."""
    import typer
    from typer.core import TyperGroup

    from flows import cli as flows
    from storyreason import cli

    def walk(command: Any, name: str) -> dict[str, Any]:
        if isinstance(command, TyperGroup):
            found: dict[str, Any] = {}
            for key, one in command.commands.items():
                found |= walk(one, f"{name} {key}".strip())
            return found
        return {name: {one.name: _parameter(one) for one in command.params if one.name != "help"}}

    return {name: one for app in (cli.app, flows.app) for name, one in walk(typer.main.get_command(app), "").items()}


def _parameter(one: Any) -> dict[str, Any]:
    default = None if callable(one.default) else one.default
    return {
        "kind": one.param_type_name,
        "written": sorted([*one.opts, *one.secondary_opts]),
        "required": one.required,
        "multiple": one.multiple or one.nargs != 1,
        "default": default
        if isinstance(default, (bool, int, float, type(None)))
        else str(getattr(default, "value", default)),
    }


def keys() -> dict[str, Any]:
    """Every `--set` key with its default."""
    from storyreason.config import RunConfig

    return RunConfig().flat()


def rules() -> dict[str, str]:
    """The severity of each rule."""
    from storyreason.format.rules import RULES

    return {name: rule.severity for name, rule in RULES.items()}


def scorecard() -> dict[str, Any]:
    """A scorecard's columns and score names, except METEOR, which takes 12 s to load."""
    from storyreason import sample, scoring
    from storyreason.format import answer

    references = [scoring.Reference.of(one) for one in sample.examples("test", films=1)]
    references.append(scoring.Reference("beach-1", ((60, 40), (60, 40)), **read("story")["every kind"]))
    told = {one.story_id: answer.join(one.chain_of_thought, one.story) for one in references}
    card = scoring.score(references, told, protocols=("strict", "paper"), meteor=False)
    stored = json.loads(card.to_json())
    return {
        "format": stored["format"],
        "keys": sorted(stored),
        "columns": sorted(stored["columns"]),
        "metrics": sorted(card.metrics()),
    }


def errors() -> dict[str, list[str]]:
    """The bases of each error class."""
    from storyreason import errors

    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, Exception)]
    return {one.__name__: [base.__name__ for base in one.__bases__] for one in classes}


WHOLE: dict[str, Callable[[], Any]] = {"fingerprints": all_fingerprints, "page": pages}
"""By golden file, what must equal its content."""
NAMES: dict[str, Callable[[], Any]] = {
    "verbs": verbs,
    "keys": keys,
    "rules": rules,
    "scorecard": scorecard,
    "errors": errors,
}
"""By golden file, what must contain its content; additions are allowed."""


def missing(kept: Any, found: Any, where: str = "") -> Iterator[str]:
    """The kept values that are missing from the found ones or differ there."""
    if isinstance(kept, dict) and isinstance(found, dict):
        for key in kept:
            yield from missing(kept[key], found.get(key, "nothing"), f"{where}/{key}")
    elif isinstance(kept, list) and isinstance(found, list):
        yield from (f"{where}: {one}" for one in kept if one not in found)
    elif kept != found:
        yield f"{where}: {kept!r} was kept, {found!r} is found"


def deviations(line: dict[str, Any]) -> list[str]:
    """The keys of a `progress.jsonl` line that are missing or have another type; new keys and events are allowed."""
    kept = read("progress").get(line["event"], {"always": {}, "sometimes": {}})
    found = types(line)
    wanted = kept["always"] | {key: one for key, one in kept["sometimes"].items() if key in line}
    return [f"{key}: {found.get(key)}" for key, one in wanted.items() if found.get(key) not in one]


def manifest(step: str) -> dict[str, str]:
    """The keys and types of a step's manifest, from the recorded `runs/` folder."""
    file = next((GOLDEN / "runs-before" / step).glob("*/manifest.json"))
    return types(json.loads(file.read_text()))


def types(value: dict[str, Any]) -> dict[str, str]:
    return {key: type(one).__name__ for key, one in value.items()}


def write() -> None:
    """Overwrite the golden files with the current values."""
    for name, compute in (WHOLE | NAMES).items():
        text = json.dumps(compute(), indent=1, ensure_ascii=False)
        (GOLDEN / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    write()
