"""What MLflow remembers: runs found again by the fingerprint of their step, model versions with their lineage, aliases."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prefect import get_run_logger, task
from prefect.runtime import flow_run

from storyreason import model, runs
from storyreason.config import RunConfig
from storyreason.errors import RegistryError
from tasks import settings
from tasks.steps import from_outside, plainly

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

VERSION = 1
EXPERIMENT = "storyteller"
CARD = """# {name}

Looks at a sequence of images, writes an analysis (tables of characters, objects, settings and narrative phases, with boxes \
and IDs that stay with an entity), and tells a story in which every mention is tied to those IDs (arXiv 2505.10292).

| | |
|---|---|
{rows}

Loads as it is: `Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)`, `AutoProcessor.from_pretrained(folder)`, or \
`vllm serve folder`. Its scores are in the MLflow run.
"""
"""In MLflow's pages a line's end is a line's end, so that a paragraph is one line."""
MODEL = """Looks at a sequence of images and tells a grounded story (arXiv 2505.10292).

`champion` is served, `challenger` was registered last, `previous` was served before: `storyreason deploy previous` rolls back.
Each version's description is its card; its source run holds the scores, their intervals, tables and story pages.
"""
FACE = "workflowType=machine_learning"
TAG = "storyreason."
"""Every tag of ours begins so: `storyreason.train` holds the fingerprint of the training step, and so on."""

TAKEN_DOWN = "taken_down"
"""The tag of a champion that a person replaced by `storyreason deploy`."""
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""How MLflow says that it has no such model, version or run, and no such alias."""
T = TypeVar("T")


@dataclass(frozen=True)
class Version:
    """A registered version of the storyteller, and the folder that holds exactly what is evaluated and served."""

    name: str
    number: str
    folder: str
    identity: str
    """Names the content of the folder: the fingerprint of the register step."""
    run_id: str
    data_md5: str


def client() -> "MlflowClient":
    """MLflow's client, on the server that MLFLOW_TRACKING_URI names."""
    from mlflow import MlflowClient

    return MlflowClient()


def experiment() -> str:
    """The ID of the one experiment in which all models are compared, made when missing."""
    mlflow = client()
    found = mlflow.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    # A server decides itself where artifacts go; a database would put them into ./mlruns.
    database = not os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http")
    chosen = os.environ.get("STORYREASON_MLFLOW_ARTIFACTS") or (runs.root() / "mlflow" / "artifacts").as_uri()
    location = chosen if database else None
    return str(mlflow.create_experiment(EXPERIMENT, artifact_location=location))


def find_run(step: str, fingerprint: str) -> str | None:
    """The ID of the run that belongs to a step, or None. Looked up before every creation: creating is not idempotent."""
    found = client().search_runs([experiment()], filter_string=f"tags.`{TAG}{step}` = '{fingerprint}'", max_results=1)
    return found[0].info.run_id if found else None


def open_run(step: str, fingerprint: str, name: str, parameters: dict[str, Any], tags: dict[str, str]) -> str:
    """The step's run, made or taken up again, in state RUNNING."""
    mlflow = client()
    run_id = find_run(step, fingerprint)
    if run_id is None:
        from mlflow.entities import Param

        run = mlflow.create_run(experiment(), run_name=name, tags={f"{TAG}{step}": fingerprint, **tags})
        run_id = run.info.run_id
        mlflow.log_batch(run_id, params=[Param(key, str(value)) for key, value in parameters.items()])
    mlflow.update_run(run_id, status="RUNNING")
    return str(run_id)


def address(run_id: str, artifact: str = "") -> str:
    """Where MLflow's UI shows a run, or one of its artifacts: on the server that is used, or that `up` starts."""
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    server = tracking.rstrip("/") if tracking.startswith("http") else settings.read().mlflow_url
    page = f"{server}/#/experiments/{experiment()}/runs/{run_id}"
    # of MLflow's two faces the one for models that are trained; the other is for applications of language models
    return f"{page}/artifacts/{artifact}?{FACE}" if artifact else f"{page}?{FACE}"


def close_run(run_id: str, status: str = "FINISHED") -> None:
    """Say how a run ended: FINISHED, FAILED or KILLED."""
    client().set_terminated(run_id, status=status)


def log_data(run_id: str, target: str, data: dict[str, Any], split: str) -> None:
    """Name a split of a data version as an input of a run, once."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    mlflow = client()
    name, digest = target.removesuffix(".dvc"), str(data["md5"])[:8]
    inputs = mlflow.get_run(run_id).inputs
    for known in inputs.dataset_inputs if inputs else ():
        if known.dataset.digest == digest and any(tag.value == split for tag in known.tags):
            return
    source = json.dumps({"dvc.path": name, "dvc.md5": data["md5"], "dvc.rev": data["rev"]})
    dataset = Dataset(name=f"{name} {split}", digest=digest, source_type="code", source=source)
    mlflow.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", split)])])


def log_table(run_id: str, rows: list[dict[str, Any]], path: str) -> None:
    """Write a table as MLflow's own `log_table` does, but in place of one that is there: that one would append to it."""
    import pandas as pd
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

    mlflow = client()
    mlflow.log_text(run_id, pd.DataFrame(rows).to_json(orient="split", index=False, double_precision=15), path)
    known = json.loads(mlflow.get_run(run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
    table = {"path": path, "type": "table"}
    if table not in known:
        mlflow.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*known, table]))


def lineage(**more: str) -> dict[str, str]:
    """Tags that say where a result comes from: code, Prefect run, and what the caller adds."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True).stdout.strip()
    return {
        f"{TAG}git_commit": commit + ("+changes" if dirty else ""),
        f"{TAG}prefect_run": str(flow_run.get_id() or ""),
        **{TAG + key: value for key, value in more.items()},
    }


def recall(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete step, or None where MLflow does not have the run or the version that it names.

    They may be deleted there; and another store has runs of its own, and counts its versions from 1 again.
    """
    manifest = runs.read_manifest(folder)
    if manifest and "run_id" in manifest:
        run = _if_there(lambda: client().get_run(manifest["run_id"]))
        if run is None or run.info.lifecycle_stage != "active":
            return None
    if manifest and "number" in manifest:
        found = _if_there(lambda: client().get_model_version(manifest["name"], manifest["number"]))
        if found is None or not _comes_of(found, manifest["identity"], manifest["run_id"]):
            return None
    return manifest


def _comes_of(found: "ModelVersion", print_: str, run_id: str) -> bool:
    return found.tags.get(f"{TAG}register") == print_ and found.run_id == run_id


def fingerprint(train: str, model: str) -> str:
    """What decides a version: the training, and the registered model that it is a version of."""
    return runs.fingerprint(step="register", version=VERSION, train=train, model=model)


@task(name="register", retries=2, retry_delay_seconds=5, retry_jitter_factor=0.5, retry_condition_fn=from_outside)
@plainly()
def register(config: RunConfig, base: str, trained: dict[str, Any], train: str) -> dict[str, Any]:
    """Merge once into the model folder that is evaluated and served, and register it as a version in MLflow."""
    print_ = fingerprint(train, config.model)
    folder = runs.work_folder("register", print_)
    if manifest := recall(folder):
        return manifest
    logger = get_run_logger()
    with runs.lock(folder):
        target = folder / "model"
        if not target.exists():
            model.write_folder(base, Path(trained["result"]), target, _card(config, trained), config.base.revision)
            shutil.copy(Path(trained["result"]).with_name("training_stories.json"), folder)
        number = _version(config, print_, target, trained)
        logger.info("registered %s version %s: %s", config.model, number, target)
        return runs.write_manifest(
            folder,
            files=("model/config.json", "training_stories.json"),
            name=config.model,
            number=number,
            folder=str(target),
            identity=print_,
            run_id=trained["run_id"],
            data_md5=trained["data_md5"],
        )


def _version(config: RunConfig, print_: str, folder: Path, trained: dict[str, Any]) -> str:
    import mlflow

    for found in client().search_model_versions(f"name = '{config.model}'"):
        if _comes_of(found, print_, trained["run_id"]):
            return str(found.version)
    tags = lineage(
        register=print_,
        folder=str(folder),
        train=trained["fingerprint"],
        data_md5=trained["data_md5"],
        base=config.base.name,
        preset=config.name,
    )
    logged = mlflow.create_external_model(
        config.model, source_run_id=trained["run_id"], experiment_id=experiment(), tags=tags
    )
    version = mlflow.register_model(f"models:/{logged.model_id}", config.model, tags=tags)
    store = client()
    store.update_registered_model(config.model, MODEL)
    store.update_model_version(config.model, version.version, _card(config, trained))
    store.set_registered_model_alias(config.model, "challenger", version.version)
    return str(version.version)


def _card(config: RunConfig, trained: dict[str, Any]) -> str:
    facts = {
        "base model": config.base.name,
        "preset": config.name,
        "trained": config.training.mode,
        "data (md5)": trained["data_md5"],
        "code (git commit)": lineage()[f"{TAG}git_commit"],
        "MLflow run": trained["run_id"],
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return CARD.format(name=config.model, rows=rows)


def version(name: str, which: str) -> Version:
    """A registered version by number or alias. Raises RegistryError when there is none."""
    found = alias(name, which)
    if found is None:
        raise RegistryError(
            f"MLflow has no {name} with version or alias {which!r}: look at its versions in MLflow, or run `storyreason retrain`."
        )
    return found


def alias(name: str, which: str) -> Version | None:
    """The version that an alias (or a number) names, or None. A registry that is away raises: silence is not "no champion"."""
    ask = client().get_model_version if which.isdigit() else client().get_model_version_by_alias
    found = _if_there(lambda: ask(name, which))
    return None if found is None else _from_mlflow(found)


@plainly()
def _if_there(ask: Callable[[], T]) -> T | None:
    """What MLflow answers, or None where it answers that there is no such thing. Raises RegistryError when it is away."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def models() -> list[str]:
    """The names of all registered models."""
    return [str(found.name) for found in client().search_registered_models()]


def versions(name: str) -> list[Version]:
    """All versions of a model that this project registered."""
    found = client().search_model_versions(f"name = '{name}'")
    return [_from_mlflow(one) for one in found if f"{TAG}folder" in one.tags]


def aliased(name: str) -> set[str]:
    """The numbers of the versions that an alias names."""
    return {str(number) for number in client().get_registered_model(name).aliases.values()}


def move_champion(new: Version, by_hand: bool = False) -> None:
    """Make a served version the champion; the old champion becomes `previous`. Nothing moves when it is the champion.

    Of what a person did by hand a tag stays on the old one, so that no retraining brings it back by itself.
    """
    mlflow = client()
    old = alias(new.name, "champion")
    if by_hand and TAKEN_DOWN in tags_of(new):
        mlflow.delete_model_version_tag(new.name, new.number, TAG + TAKEN_DOWN)
    if old is not None and old.number == new.number:
        return
    if old is not None:
        if by_hand:
            tag_version(old, **{TAKEN_DOWN: f"for version {new.number}"})
        mlflow.set_registered_model_alias(new.name, "previous", old.number)
    mlflow.set_registered_model_alias(new.name, "champion", new.number)


def tag_version(which: Version, **tags: str) -> None:
    """Write tags of ours on a model version."""
    for key, value in tags.items():
        client().set_model_version_tag(which.name, which.number, TAG + key, value)


def tags_of(which: Version) -> dict[str, str]:
    """The tags of ours on a model version, by their names without the prefix."""
    tags = client().get_model_version(which.name, which.number).tags
    return {key.removeprefix(TAG): str(value) for key, value in tags.items() if key.startswith(TAG)}


def _from_mlflow(found: "ModelVersion") -> Version:
    tags = found.tags
    return Version(
        name=found.name,
        number=str(found.version),
        folder=tags[f"{TAG}folder"],
        identity=tags[f"{TAG}register"],
        run_id=str(found.run_id),
        data_md5=tags.get(f"{TAG}data_md5", ""),
    )
