"""What MLflow has lost is created again from the work folders: a deleted version or run, or everything in a new store."""

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from prefect.logging import disable_run_logger

from storyreason import dataset, runs, sample
from storyreason.config import RunConfig
from tasks import evaluation, registry, tracking, training
from tasks.data import Base
from tasks.evaluation import Subject
from tasks.results import Pulled, Trained
from tasks.steps import Step
from tests.tasks.test_evaluation import FREE, evaluate, pulled, write_answers

CONFIG = RunConfig.model_validate({"training": {"accelerate": None, "dtype": "float32"}})
BASE = Base("base", "0123456789abcdef")
PROGRESS: list[dict[str, Any]] = [
    {
        **{"event": "start", "step": 0, "time": 1e9, "processes": 1},
        **{"stories": 4, "validation_stories": 0, "dropped": 0, "bad": 0},
    },
    *(
        {
            **{"event": "step", "step": step, "steps": 2, "time": 1e9 + step, "epoch": step / 2, "loss": 3.0 - step},
            **{"learning_rate": 1e-3, "tokens_per_s": 9.0, "answer_tokens_per_s": 8.0, "mfu": 0.5},
            **{"peak_memory": 1e9, "data_wait": 0.0, "seconds_left": 0.0},
        }
        for step in (1, 2)
    ),
    {"event": "end", "step": 2, "time": 1e9 + 3},
]


@pytest.fixture
def data(tmp_path: Path, mlflow_store: None, monkeypatch: pytest.MonkeyPatch) -> Pulled:
    """The data of a training that is complete, as is its version."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setattr(training, "Progress", Mock())
    monkeypatch.setattr(evaluation, "Progress", Mock())
    for split in dataset.SPLITS:
        dataset.write(sample.examples(split, films=1), tmp_path / "data", split)  # type: ignore[arg-type]
    data = pulled(tmp_path / "data")
    work = training.train.work(CONFIG, data, BASE)
    folder = work.folder
    (folder / "result").mkdir()
    runs.write_text(folder / "progress.jsonl", "".join(json.dumps(line) + "\n" for line in PROGRESS))
    runs.write_text(folder / "training_stories.json", "[]")
    run_id = tracking.open_run("train", work.fingerprint, "smoke", {}, {})
    kept = ("result", "training_stories.json")
    runs.write_manifest(
        folder, kept, fingerprint=work.fingerprint, result=str(folder / "result"), run_id=run_id, data_md5=data.md5
    )
    trained = train(data)
    runs.write_text(version_folder(trained) / "training_stories.json", "[]")
    runs.write_text(version_folder(trained) / "model" / "config.json", "{}")  # merged already
    register(trained)
    return data


def version_folder(trained: Trained) -> Path:
    return registry.register.work(CONFIG, BASE, trained).folder


def train(data: Pulled) -> Trained:
    with disable_run_logger():
        return training.train.compute(CONFIG, data, BASE)


def register(trained: Trained) -> registry.Version:
    with disable_run_logger():
        made = registry.register.compute(CONFIG, BASE, trained)
    return registry.version(made.name, made.number)


def is_repeated(step: Step[..., Any], *asked: Any) -> bool:
    """Whether Prefect would not take the step from its cache."""
    return step.task(step.work(*asked)).refresh_cache is True


def repeated(data: Pulled) -> set[str]:
    """Which of the two steps Prefect would not take from its cache."""
    work = training.train.work(CONFIG, data, BASE)
    trained = Trained(("result",), work.fingerprint, work.folder / "result", "a run", data.md5)
    asked: list[tuple[Step[..., Any], tuple[Any, ...]]] = [
        (training.train, (CONFIG, data, BASE)),
        (registry.register, (CONFIG, BASE, trained)),
    ]
    return {step.name for step, what in asked if is_repeated(step, *what)}


def test_what_mlflow_has_is_not_repeated(data: Pulled) -> None:
    assert repeated(data) == set()
    assert register(train(data)).number == "1"
    assert len(registry.versions("storyteller")) == 1


def test_a_deleted_version_is_registered_again(data: Pulled) -> None:
    before = register(train(data))
    tracking.client().delete_model_version("storyteller", "1")

    assert repeated(data) == {"register"}
    again = register(train(data))

    assert (again.number, again.identity) == ("2", before.identity)
    assert registry.alias("storyteller", "challenger") == again
    assert repeated(data) == set()


def test_in_a_new_store_the_training_gets_its_own_run_and_version(
    data: Pulled, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a store in which version 1 is of another training
    here = os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path / 'there.db')}")
    tracking.client().create_registered_model("storyteller")
    tags = {f"{tracking.TAG}folder": "elsewhere", f"{tracking.TAG}register": "f" * 16}
    tracking.client().create_model_version("storyteller", source=str(tmp_path), tags=tags)

    assert repeated(data) == {"train", "register"}
    trained = train(data)
    again = register(trained)

    assert (again.number, again.identity, again.run_id) == ("2", version_folder(trained).name, trained.run_id)
    run = tracking.client().get_run(again.run_id)
    assert (run.info.status, run.data.tags["storyreason.processes"]) == ("FINISHED", "1")
    losses = tracking.client().get_metric_history(again.run_id, "train/loss")
    assert [(point.step, point.value) for point in losses] == [(1, 2.0), (2, 1.0)]
    # and back in the first store, all is as it was
    monkeypatch.setenv("MLFLOW_TRACKING_URI", here)
    assert register(train(data)).number == "1"
    assert len(tracking.client().search_runs([tracking.experiment()])) == 1


@pytest.mark.server
def test_a_deleted_run_is_created_again_with_a_version_and_scores(data: Pulled) -> None:
    before = register(train(data))
    subject = Subject.of("challenger", before, data)
    write_answers(data, subject)
    assert evaluate(data, subject).run_id == before.run_id
    tracking.client().delete_run(before.run_id)

    after = register(train(data))

    assert after.number == "2" and after.run_id != before.run_id
    subject = Subject.of("challenger", after, data)
    assert is_repeated(evaluation.evaluate, FREE, subject, data)
    assert evaluate(data, subject).run_id == after.run_id
    metrics = tracking.client().get_run(after.run_id).data.metrics
    assert metrics["free/strict/grounding/f1"] == 1.0 and metrics["train/loss"] == 1.0
