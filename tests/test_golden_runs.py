"""A `runs/` folder recorded from earlier code counts as complete: `tests/golden/runs-before`.

It was written by `retrain smoke --until evaluate`. Large files (weights, data, pages) are left out and created empty here:
only their existence matters.
"""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from prefect.logging import disable_run_logger

from flows import up
from storyreason import dataset, model, runs, sample, scoring
from storyreason.config import load
from storyreason.errors import TrainingError
from storyreason.generation import answering
from storyreason.serving import state
from storyreason.training import checkpoints, job
from tasks import data, evaluation, registry, settings, tracking, training, versioning
from tasks.data import Base
from tasks.results import RESULTS, Evaluated, Pulled, Trained, from_manifest, to_manifest
from tests import frozen

BEFORE = frozen.GOLDEN / "runs-before"
DATA, BASE = "67962fc4cfa5b92a11851808682aadc1", "4102ef11e8bc61ab708fe2df20725952"
BASE_IDENTITY = "bf4b4e2008d25bf0"
TRAIN, REGISTER = "a41a5a9769ee8ec0", "e1d5548c279b9d7e"
EVALUATE = {"base": "068062fb6ecabbf9", "challenger": "348f87275d7442a5"}
SMOKE = load("smoke", ["training.max_steps=20", "training.save_every=5"])  # as the preset was then


@dataclass(frozen=True)
class Before:
    """A checkout with the recorded folder, and an MLflow store with its runs and its model version."""

    root: Path
    run: str
    base_run: str

    def folder(self, *parts: str) -> Path:
        return self.root.joinpath("runs", *parts)

    def scorecards(self) -> dict[str, dict[str, str]]:
        """By role and decoding, the files of the scorecards."""
        return {
            role: {"free": str(self.folder("evaluate", name, "free-scorecard.json"))} for role, name in EVALUATE.items()
        }

    def filled(self, text: str) -> str:
        """A recorded text with the placeholders filled in."""
        for kept, here in ((frozen.ROOT, str(self.root)), ("$RUN", self.run), ("$BASE_RUN", self.base_run)):
            text = text.replace(kept, here)
        return text

    def kept(self, value: Any) -> Any:
        """A JSON value of this folder with placeholders, as it was recorded."""
        text = json.dumps(value).replace(str(self.root), frozen.ROOT)
        return json.loads(text.replace(self.base_run, "$BASE_RUN").replace(self.run, "$RUN"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """An MLflow store with the training run, the run of the base model's evaluation, and the model version."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow, name = MlflowClient(f"sqlite:///{file}"), "storyteller-smoke"
    experiment = mlflow.create_experiment("storyteller", artifact_location=file.parent.as_uri())
    run, base_run = (
        str(mlflow.create_run(experiment, tags={f"storyreason.{step}": fingerprint}).info.run_id)
        for step, fingerprint in (("train", TRAIN), ("evaluate", EVALUATE["base"]))
    )
    tags = {"register": REGISTER, "train": TRAIN, "folder": "model", "data_md5": DATA, "base": "tiny-base"}
    mlflow.create_registered_model(name)
    mlflow.create_model_version(name, "model", run, {f"storyreason.{key}": value for key, value in tags.items()})
    mlflow.set_registered_model_alias(name, "challenger", "1")
    return file, run, base_run


@pytest.fixture
def before(store: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Before:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(store[0], tmp_path)}")
    monkeypatch.chdir(tmp_path)
    made = Before(tmp_path, *store[1:])
    for file in BEFORE.rglob("*.json*"):
        target = made.folder(*file.relative_to(BEFORE).parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(made.filled(file.read_text()))
    # The fingerprints of `pull` and `compare` contain absolute paths.
    for name, md5 in (("data", DATA), ("base", BASE)):
        fingerprint = _fingerprint(step="pull", version=4, md5=md5, folder=str(tmp_path / FOLDERS[name]))
        made.folder("pull", name).rename(made.folder("pull", fingerprint))
    fingerprint = _fingerprint(step="compare", version=1, run=made.run, scorecards=made.scorecards())
    made.folder("compare", "scorecards").rename(made.folder("compare", fingerprint))
    for manifest in made.folder().rglob("manifest.json"):
        for name in json.loads(manifest.read_text())["files"]:
            file = manifest.parent / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return made


FOLDERS = {"data": "data", "base": "tiny-base"}
"""By recorded manifest of `pull`, the folder of the checkout that it pulled."""


def _fingerprint(**parts: Any) -> str:
    """Computed independently of the code under test."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def test_every_recorded_step_is_complete_under_its_current_fingerprint(before: Before) -> None:
    for name, md5 in (("data", DATA), ("base", BASE)):
        version = versioning.DataVersion(f"{FOLDERS[name]}.dvc", None, md5, str(before.root / FOLDERS[name]), "")
        found = runs.read_manifest(runs.work_folder("pull", data.fingerprint(version, check=name == "data")))
        assert (found is None) == (name == "base")  # then a base was not kept: it is pulled once more
    assert training.fingerprint(SMOKE, DATA, BASE_IDENTITY) == TRAIN
    assert registry.fingerprint(TRAIN, SMOKE.model, SMOKE.registry) == REGISTER
    for role, identity in (("base", BASE_IDENTITY), ("challenger", REGISTER)):
        subject = evaluation.Subject(role, f"{before.root}/nowhere", identity)
        pulled = Pulled(("data",), md5=DATA, rev=None, card="", faulty_test_stories={})
        assert evaluation.fingerprint(SMOKE, subject, pulled) == EVALUATE[role]
    for step, name in (("train", TRAIN), ("register", REGISTER), *(("evaluate", one) for one in EVALUATE.values())):
        assert tracking.recall(runs.work_folder(step, name)), step
    scores = {role: Evaluated((), role, before.run, cards, {}, {}) for role, cards in before.scorecards().items()}
    registered = registry.Version(SMOKE.model, "1", "model", REGISTER, before.run, DATA)
    assert tracking.recall(runs.work_folder("compare", evaluation.comparison_fingerprint(registered, scores)))


@pytest.mark.parametrize("file", BEFORE.rglob("manifest.json"), ids=lambda file: file.parents[1].name)
def test_result_of_a_step_reads_and_writes_the_recorded_manifest(file: Path) -> None:
    manifest = json.loads(file.read_text())
    assert to_manifest(from_manifest(RESULTS[file.parents[1].name], manifest, str(file.parent))) == manifest


def test_folders_of_runs_keep_their_names(before: Before, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"STORYREASON_RUNS": str(before.folder()), "HOME": str(before.root)})
    settings.prepare()

    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{before.folder('mlflow', 'mlflow.db')}"
    assert os.environ["PREFECT_HOME"] == str(before.folder("prefect"))
    assert os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] == str(before.folder("prefect", "storage"))
    assert (state.folder(), up.folder()) == (before.folder("gateway"), before.folder("up"))


def test_steps_missing_from_mlflow_write_the_same_manifests_again(
    before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.client().delete_registered_model(SMOKE.model)
    tracking.client().delete_run(before.run)

    trained = train(before, monkeypatch)
    with disable_run_logger():
        registry.register.compute(SMOKE, Base(f"{before.root}/tiny-base", BASE_IDENTITY), trained)

    for step, name in (("train", TRAIN), ("register", REGISTER)):
        kept, now = (json.loads((top / step / name / "manifest.json").read_text()) for top in (BEFORE, before.folder()))
        assert now["run_id"] != before.run
        assert before.kept(now | {"run_id": before.run}) == kept


def test_training_writes_the_same_job(before: Before, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a training without a manifest whose process exits at once
    folder = before.folder("train", TRAIN)
    for name in ("manifest.json", "job.json"):
        (folder / name).unlink()
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(TrainingError):
        train(before, monkeypatch)

    kept = json.loads((BEFORE / "train" / TRAIN / "job.json").read_text())
    assert not list(frozen.missing(kept, before.kept(json.loads((folder / "job.json").read_text()))))


def train(before: Before, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Run the step `train` on the first stories of the data."""
    monkeypatch.setattr(training, "Progress", Mock())  # needs a flow
    folder = before.folder("data", DATA)
    folder.unlink()
    dataset.write(sample.examples("train", films=6), folder, "train")
    pulled = Pulled((str(folder),), md5=DATA, rev=None, card="", faulty_test_stories={})
    with disable_run_logger():
        return training.train.compute(SMOKE, pulled, Base(f"{before.root}/tiny-base", BASE_IDENTITY))


def test_recorded_checkpoint_is_resumed(before: Before) -> None:
    folder = before.folder("train", TRAIN)
    kept = json.loads((folder / "checkpoint-20" / "identity.json").read_text())
    # These four come from weights and stories, which were not recorded.
    made = ("stories_per_step", "sharded", "stories_hash", "weights_hash")

    identity = job.read(folder / "job.json").identity() | {key: kept[key] for key in made}

    assert checkpoints.to_resume(folder, identity) == 20


def test_deviating_progress_line_is_found() -> None:
    # Every training that the tests run checks its lines this way: `tests/storyreason/training/whole.py`.
    lines = [json.loads(line) for line in (BEFORE / "train" / TRAIN / "progress.jsonl").read_text().splitlines()]
    assert [frozen.deviations(line) for line in lines] == [[]] * len(lines)
    assert frozen.deviations({**lines[-1], "result": None}) == ["result: NoneType"]
    del lines[-1]["best_loss"]
    assert frozen.deviations(lines[-1]) == ["best_loss: None"]


@pytest.mark.parametrize("name", EVALUATE.values())
def test_recorded_scorecard_gives_the_recorded_scores(name: str) -> None:
    folder = BEFORE / "evaluate" / name
    card = scoring.Scorecard.from_json((folder / "free-scorecard.json").read_text())
    metrics = {"stories": 4.0, **{f"free/{score}": value for score, value in card.metrics().items()}}
    recorded = json.loads((folder / "manifest.json").read_text())["metrics"]
    renamed = {key.replace("/validity/rules/", "/validity/rule_pass_rate/"): value for key, value in recorded.items()}
    assert metrics == renamed
    assert [one.story_id for one in answering.read(folder / "free.jsonl")] == list(card.story_ids)


def test_identity_of_a_base_model_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("not part of the identity")
    assert model.load_identity(str(tmp_path)) == "5959a9405683809b"
