"""Runs in MLflow, which are found by the fingerprint of their step; their inputs, metrics, tables and addresses."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from prefect.runtime import flow_run

from storyreason import runs
from storyreason.config import RunConfig
from tasks import compat, views
from tasks.faults import plainly
from tasks.results import Pulled

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

TAG = "storyreason."
"""The prefix of this project's tags: `storyreason.train` holds the fingerprint of the training step, and so on."""
VERSIONS = "storyreason:/versions"
"""Where MLflow thinks that the files of versions are: an address for `showing`."""
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for a model, version, run or alias that does not exist."""
NOTE = "mlflow.note.content"
DECISION = re.compile(r"version \w+ (?:promoted|held) [^:]*: ")
"""How the description of a run begins that the gate has decided on: `version 3 promoted 26 Nov 2026: `."""
T = TypeVar("T")


@plainly()
def client() -> "MlflowClient":
    """A client of the MLflow server or database that MLFLOW_TRACKING_URI names. Raises RegistryError for an old database."""
    from mlflow import MlflowClient

    return MlflowClient()


def experiment() -> str:
    """The ID of the one experiment in which all models are compared; created when missing."""
    mlflow = client()
    found = mlflow.get_experiment_by_name(views.EXPERIMENT)
    if found is not None:
        return _described(str(found.experiment_id), found.tags)
    # A server chooses where artifacts go; with a database alone they would go to ./mlruns.
    database = not os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http")
    chosen = os.environ.get("STORYREASON_MLFLOW_ARTIFACTS") or (runs.root() / "mlflow" / "artifacts").as_uri()
    location = chosen if database else None
    return _described(str(mlflow.create_experiment(views.EXPERIMENT, artifact_location=location)), {})


def experiment_of_versions() -> str:
    """The ID of the experiment that holds MLflow's models of registered versions; created when missing.

    MLflow derives where a model's artifacts are from its experiment: here that is where `showing` finds the version's files.
    """
    mlflow, name = client(), f"{views.EXPERIMENT} versions"
    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(mlflow.create_experiment(name, artifact_location=VERSIONS, tags=views.VERSIONS))


def _described(experiment: str, tags: dict[str, str]) -> str:
    """The experiment's ID, once its tags are those of `views`."""
    for key, value in views.experiment_tags(experiment).items():
        if tags.get(key) != value:
            client().set_experiment_tag(experiment, key, value)
    return experiment


def find_run(step: str, fingerprint: str) -> str | None:
    """The ID of a step's run, or None. Look it up before you create one: MLflow would create it twice."""
    found = client().search_runs([experiment()], filter_string=f"tags.`{TAG}{step}` = '{fingerprint}'", max_results=1)
    return found[0].info.run_id if found else None


@plainly()
def newest(count: int) -> "list[Run]":
    """The runs that began last, newest first. Raises RegistryError when MLflow is unreachable."""
    found = client().search_runs([experiment()], order_by=["attributes.start_time DESC"], max_results=count)
    return list(found)


def open_run(step: str, fingerprint: str, name: str, parameters: dict[str, Any], tags: dict[str, str]) -> str:
    """The ID of the step's run, new or resumed, in state RUNNING."""
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
    """Where MLflow's UI shows a run or one of its artifacts: on the server in use, or the one that `up` starts."""
    return views.run(experiment(), run_id, artifact)


def close_run(run_id: str, status: str = "FINISHED") -> None:
    """Close a run with its status: FINISHED, FAILED or KILLED."""
    client().set_terminated(run_id, status=status)


@contextmanager
def closing(run_id: str) -> Iterator[None]:
    """Close a run when the block ends: FINISHED, FAILED after an exception, or KILLED."""
    try:
        yield
    except BaseException as error:
        close_run(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    close_run(run_id)


def log_data(run_id: str, target: str, data: Pulled, split: str) -> None:
    """Log a split of a data version as an input of a run, unless it already is one."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    mlflow = client()
    name, digest = target.removesuffix(".dvc"), data.md5[:8]
    inputs = mlflow.get_run(run_id).inputs
    for known in inputs.dataset_inputs if inputs else ():
        if known.dataset.digest == digest and any(tag.value == split for tag in known.tags):
            return
    source = json.dumps({"dvc.path": name, "dvc.md5": data.md5, "dvc.rev": data.rev})
    dataset = Dataset(name=f"{name} {split}", digest=digest, source_type="code", source=source)
    mlflow.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", split)])])


def log_config(run_id: str, config: RunConfig) -> None:
    """Log the whole configuration as `config.yaml`, which is a preset: `storyreason retrain config.yaml` repeats the run."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    client().log_text(run_id, text, "config.yaml")


def note(run_id: str, text: str) -> None:
    """Set the description of a run, which the list of runs shows. The gate's decision before it stays until there is another."""
    before = DECISION.match(client().get_run(run_id).data.tags.get(NOTE, ""))
    kept = before[0] if before and not DECISION.match(text) else ""
    client().set_tag(run_id, NOTE, kept + text)


def log_table(run_id: str, rows: list[dict[str, Any]], path: str) -> None:
    """Write a table as MLflow's `log_table` does, but replace an existing one, to which `log_table` would append."""
    import pandas as pd

    mlflow, tag = client(), compat.logged_tables_tag()
    mlflow.log_text(run_id, pd.DataFrame(rows).to_json(orient="split", index=False, double_precision=15), path)
    known = json.loads(mlflow.get_run(run_id).data.tags.get(tag, "[]"))
    table = {"path": path, "type": "table"}
    if table not in known:
        mlflow.set_tag(run_id, tag, json.dumps([*known, table]))


def log_metrics(run_id: str, values: dict[str, float]) -> None:
    """Log metrics so that MLflow shows them instead of those of an earlier evaluation."""
    from mlflow.entities import Metric

    # MLflow shows the value with the latest time, and the highest value when times are equal.
    now = int(time.time() * 1000)
    points = [Metric(name, value, now, 0) for name, value in values.items()]
    for start in range(0, len(points), 1000):  # MLflow's limit per call
        client().log_batch(run_id, metrics=points[start : start + 1000])


def lineage(**more: str) -> dict[str, str]:
    """Tags that say where a result comes from: the code, the Prefect run, and what the caller adds."""
    return {
        f"{TAG}git_commit": _commit(),
        f"{TAG}prefect_run": str(flow_run.get_id() or ""),
        **{TAG + key: value for key, value in more.items()},
    }


def _commit() -> str:
    """The Git commit of the working directory, with `+changes` if files differ from it; empty outside a repository."""
    commit = _git("rev-parse", "--verify", "--quiet", "HEAD")
    return f"{commit}+changes" if commit and _git("status", "--porcelain") else commit


def _git(*arguments: str) -> str:
    """The output of Git; empty when it fails or is not installed, as in an image."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def recall(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete step, or None if MLflow does not have the run or the version that it names.

    They may have been deleted, and another store has other runs and counts its versions from 1. A step is not complete either
    if an endpoint rejected some of its requests: another endpoint, or the same with other settings, may take them.
    """
    manifest = runs.read_manifest(folder)
    if manifest and manifest.get("rejected"):
        return None
    if manifest and "run_id" in manifest:
        run = if_there(lambda: client().get_run(manifest["run_id"]))
        if run is None or run.info.lifecycle_stage != "active":
            return None
    if manifest and "number" in manifest:
        found = if_there(lambda: client().get_model_version(manifest["name"], manifest["number"]))
        if found is None or not comes_of(found, manifest["identity"], manifest["run_id"]):
            return None
    return manifest


def comes_of(found: "ModelVersion", fingerprint: str, run_id: str) -> bool:
    """Whether a version in MLflow was registered by the step with this fingerprint, from this run."""
    return found.tags.get(f"{TAG}register") == fingerprint and found.run_id == run_id


@plainly()
def if_there(ask: Callable[[], T]) -> T | None:
    """MLflow's answer, or None if what was asked for does not exist. Raises RegistryError when MLflow is unreachable."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise
