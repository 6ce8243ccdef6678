"""What MLflow has lost is made again from what the steps left: a version or a run that was deleted, a store that is new."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from prefect.logging import disable_run_logger

from flows import retrain
from storyreason import dataset, runs, sample
from storyreason.config import RunConfig
from tasks import evaluation, registry, training
from tests.tasks.test_evaluation import FREE, evaluate, write_answers

PRINT = "0123456789abcdef"
CONFIG = RunConfig.model_validate({"training": {"accelerate": None, "dtype": "float32"}})
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
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Where a training and its version are complete: the manifest of the data they came of."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setattr(training, "Progress", Mock())
    monkeypatch.setattr(evaluation, "Progress", Mock())
    use_store("here", tmp_path, monkeypatch)
    for split in dataset.SPLITS:
        dataset.write(sample.examples(split, films=1), tmp_path / "data", split)  # type: ignore[arg-type]
    data = {"md5": "d41d8cd98f00b204", "rev": None, "files": [str(tmp_path / "data")], "faulty_test_stories": {}}
    folder = runs.work_folder("train", PRINT)
    (folder / "result").mkdir()
    runs.write_text(folder / "progress.jsonl", "".join(json.dumps(line) + "\n" for line in PROGRESS))
    runs.write_text(folder / "training_stories.json", "[]")
    runs.write_text(version_folder() / "training_stories.json", "[]")
    runs.write_text(version_folder() / "model" / "config.json", "{}")  # merged already
    run_id = registry.open_run("train", PRINT, "smoke", {}, {})
    kept = ("result", "training_stories.json")
    runs.write_manifest(
        folder, kept, fingerprint=PRINT, result=str(folder / "result"), run_id=run_id, data_md5=data["md5"]
    )
    register(train(data))
    return data


def use_store(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/{name}.db")


def version_folder() -> Path:
    return runs.work_folder("register", registry.fingerprint(PRINT, "storyteller"))


def train(data: dict[str, Any]) -> dict[str, Any]:
    with disable_run_logger():
        return training.train.fn(CONFIG, data, "base", PRINT)


def register(trained: dict[str, Any]) -> registry.Version:
    with disable_run_logger():
        made = registry.register.fn(CONFIG, "base", trained, PRINT)
    return registry.version(made["name"], made["number"])


def repeated() -> set[str]:
    """Which of the two steps Prefect would not take from its cache."""
    steps = {"train": (training.train, PRINT), "register": (registry.register, version_folder().name)}
    return {step for step, (task, print_) in steps.items() if retrain._run(task, step, print_).refresh_cache}


def test_what_mlflow_has_is_taken_as_it_is(data: dict[str, Any]) -> None:
    assert repeated() == set()
    assert register(train(data)).number == "1"
    assert len(registry.versions("storyteller")) == 1


def test_a_version_that_was_deleted_is_registered_again(data: dict[str, Any]) -> None:
    registry.client().delete_model_version("storyteller", "1")

    assert repeated() == {"register"}
    again = register(train(data))

    assert (again.number, again.identity) == ("2", version_folder().name)
    assert registry.alias("storyteller", "challenger") == again
    assert repeated() == set()


def test_in_a_new_store_the_training_has_its_run_and_its_version_and_never_anothers(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a store in which version 1 is of another training
    use_store("there", tmp_path, monkeypatch)
    registry.client().create_registered_model("storyteller")
    tags = {f"{registry.TAG}folder": "elsewhere", f"{registry.TAG}register": "f" * 16}
    registry.client().create_model_version("storyteller", source=str(tmp_path), tags=tags)

    assert repeated() == {"train", "register"}
    trained = train(data)
    again = register(trained)

    assert (again.number, again.identity, again.run_id) == ("2", version_folder().name, trained["run_id"])
    run = registry.client().get_run(again.run_id)
    assert (run.info.status, run.data.tags["storyreason.processes"]) == ("FINISHED", "1")
    losses = registry.client().get_metric_history(again.run_id, "train/loss")
    assert [(point.step, point.value) for point in losses] == [(1, 2.0), (2, 1.0)]
    # and back in the first store, all is as it was
    use_store("here", tmp_path, monkeypatch)
    assert register(train(data)).number == "1"
    assert len(registry.client().search_runs([registry.experiment()])) == 1


def test_a_run_that_was_deleted_is_made_again_with_a_version_and_the_scores(data: dict[str, Any]) -> None:
    before = register(train(data))
    subject = retrain.subject("challenger", before, data)
    write_answers(data, subject)
    assert evaluate(data, subject)["run_id"] == before.run_id
    registry.client().delete_run(before.run_id)

    after = register(train(data))

    assert after.number == "2" and after.run_id != before.run_id
    subject = retrain.subject("challenger", after, data)
    assert retrain._run(evaluation.evaluate, "evaluate", evaluation.fingerprint(FREE, subject, data)).refresh_cache
    assert evaluate(data, subject)["run_id"] == after.run_id
    metrics = registry.client().get_run(after.run_id).data.metrics
    assert metrics["free/strict/grounding/f1"] == 1.0 and metrics["train/loss"] == 1.0
