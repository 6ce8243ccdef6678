"""A run's name shows what differs from its preset; settings that do not change the weights change neither name nor fingerprint.

What a training process reports goes to the log and to MLflow.
"""

import json
import logging
from pathlib import Path
from typing import Any

import mlflow
import pytest

from storyreason import config, model, runs
from storyreason.training import checkpoints, machine
from tasks import progress, tracking, training
from tasks.data import Base
from tasks.results import Pulled
from tasks.steps import Work


def test_a_runs_name_says_what_differs() -> None:
    changed = ["training.learning_rate=5e-4", "data.train_stories=9", "gate.min_stories=5", "training.devices=0"]

    assert training.run_name(config.load("sample"), "0123456789") == "sample 012345"
    assert (
        training.run_name(config.load("sample", changed), "0123456789")
        == "sample data.train_stories=9 learning_rate=0.0005 012345"
    )


def test_the_name_with_an_own_preset_shows_its_differences_from_the_defaults() -> None:
    mine = config.RunConfig.model_validate({"name": "mine", "training": {"epochs": 7}})
    assert training.run_name(mine, "0123456789") == "mine epochs=7.0 012345"


def test_stories_per_step_and_precision_determine_the_weights_and_the_number_of_processes_does_not(
    tmp_path: Path,
) -> None:
    def named(accelerate: object, accumulation: int, *more: str) -> str:
        changed = [f"training.accelerate={accelerate}", f"training.accumulation={accumulation}", *more]
        return training.fingerprint(config.load("sample", changed), "md5", "base")

    two = named("fsdp2-2gpu", 8)
    assert named("fsdp2-8gpu", 2) == named("fsdp2-2gpu-offload", 8) == two
    assert named("fsdp2-2gpu", 4, "training.batch_size=2", "training.pack_tokens=4096") == two
    assert named("fsdp2-2gpu", 4) != two
    own, text = tmp_path / "own.yaml", (machine.CONFIGS / "fsdp2-2gpu.yaml").read_text()
    own.write_text(f"{text}main_process_ip: 10.0.0.1\n")
    assert named(own, 8) == two
    for before, after in (("num_processes: 2", "num_processes: 4"), ('"bf16"', '"no"')):
        assert before in text
        own.write_text(text.replace(before, after))
        assert named(own, 8) != two


def test_the_place_of_training_does_not_determine_the_weights() -> None:
    one, other = (
        training.fingerprint(config.load("sample", changed), "md5", "base")
        for changed in ([], ["training.devices=1", "training.free_memory_gb=3", "training.save_every=7"])
    )
    assert one == other
    assert one != training.fingerprint(config.load("sample", ["training.epochs=1"]), "md5", "base")


def test_what_changes_the_answers_of_an_engine_changes_what_is_learnt_from_their_rewards() -> None:
    def named(*changed: str, method: str = "grpo") -> str:
        return training.improved_fingerprint(config.load("sample", [f"improve.method={method}", *changed]), "train")

    vllm = "serving.dtype=float16", "serving.quantization=fp8", "serving.kv_cache_dtype=fp8"
    assert len({named(), named("generation.request=Tell."), *map(named, vllm)}) == 2 + len(vllm)
    assert named("serving.port=1", "generation.concurrency=2", "generation.temperature=1") == named()
    here = "improve.engine=inprocess"
    assert {named(one, here) for one in vllm} == {named(here)} != {named("serving.max_model_len=8192", here)}
    assert {named(one, method="dpo") for one in vllm} == {named(method="dpo")}


def test_an_unfinished_training_goes_on_with_the_same_base_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoints say where the base is."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    for name in ("before", "kept"):
        runs.write_text(tmp_path / name / "config.json", "{}")
    base = Base(str(tmp_path / "kept"), model.load_identity(str(tmp_path / "kept")))
    pulled = Pulled((str(tmp_path),), md5="0" * 32, rev=None, card="", faulty_test_stories={})
    work = Work("train", "0123456789abcdef")

    def job_base() -> str:
        return training._job(work, config.load("sample"), pulled, base).base

    assert job_base() == base.folder
    runs.write_text(work.folder / "job.json", json.dumps({"base": str(tmp_path / "before")}))
    assert job_base() == str(tmp_path / "before")
    (tmp_path / "before" / "config.json").write_text("[]")
    assert job_base() == base.folder


START = {"event": "start", "step": 0, "stories": 90, "validation_stories": 6, "dropped": 3, "bad": 1, "processes": 2}
FEATURES = {"event": "features", "step": 0, "pictures": 2400, "bytes": 2_900_000_000, "wanted_bytes": 2_900_000_000}
STEP = {
    "event": "step", "step": 12, "steps": 300, "time": 1.0, "loss": 1.23456, "learning_rate": 2e-4, "mfu": 0.451,
    "tokens_per_s": 12345.6, "answer_tokens_per_s": 3456.7, "peak_memory": 61_200_000_000, "data_wait": 0.012,
    "seconds_left": 252.0,
}  # fmt: skip


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage()))


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: None) -> list[tuple[str, str]]:
    """The log lines of a run without Prefect's server; MLflow runs go to a separate database."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    logger, handler = logging.Logger("run"), Heard()
    logger.addHandler(handler)
    for module in (progress, training):
        monkeypatch.setattr(module, "get_run_logger", lambda: logger)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress.Progress, "_show", lambda *_: None)
    return handler.lines


def test_the_log_reports_what_a_training_does_and_how_fast(heard: list[tuple[str, str]]) -> None:
    run_id = mlflow.MlflowClient().create_run(tracking.experiment()).info.run_id
    follow = training._follower(run_id)
    lines: list[dict[str, Any]] = [START, FEATURES, {**FEATURES, "done": 30, "stories": 90}, STEP, START]
    for line in lines:
        follow(line)
    assert heard == [
        ("WARNING", "left out of 100 stories: 3 longer than training.max_tokens, 1 that cannot be used (log.txt names them)"),
        ("INFO", "vision features of 2,400 pictures, 2.90 GB"),
        ("INFO", "vision features of 2,400 pictures, 2.90 GB: story 30 of 90"),
        ("INFO", "step 12/300  loss 1.235  lr 0.0002  12,346 tokens/s (3,457 of answers)  MFU 45.1%  peak 61.2 GB  "
                 "data wait 1%  4.2 min left"),
    ]  # fmt: skip
    run = mlflow.MlflowClient().get_run(run_id)
    assert run.data.metrics["train/mfu"] == 0.451
    assert {key: run.data.tags[tracking.TAG + key] for key in ("dropped", "bad")} == {"dropped": "3", "bad": "1"}


def test_a_round_becomes_curves_once(heard: list[tuple[str, str]]) -> None:
    run_id = mlflow.MlflowClient().create_run(tracking.experiment()).info.run_id
    parts = dict.fromkeys(training.REWARDED, 0.5)
    line = {"event": "round", "step": 4, "time": 1.0, "round": 2, "reward": 0.4, "tokens": 300.0, "cut": 0.1, "asked": 8,
            "dropped": 2, "failed": 1, "kl": 0.01, **parts}  # fmt: skip
    step = {**STEP, "kl": 0.0123, "clipped": 0.05}
    for one in (line, step):
        training._follower(run_id)(one)
    training._follower(run_id)({**line, "reward": 0.9})  # of an attempt that reports it again
    found = mlflow.MlflowClient()
    assert [one.value for one in found.get_metric_history(run_id, "round/reward")] == [0.4]
    shown = found.get_run(run_id).data.metrics
    assert {name for name in shown if name.startswith("round/")} == {
        f"round/{name}" for name in training.CURVES["round"]
    }
    assert (shown["train/kl"], shown["train/clipped"]) == (0.0123, 0.05)
    assert "KL 0.0123, clipped 5%  lr 0.0002" in heard[-1][1]


def test_the_log_reports_which_features_are_cached_and_which_are_not() -> None:
    more = {**FEATURES, "wanted_bytes": 5_000_000_000, "done": 30, "stories": 90}
    assert training._features_sentence(more) == (
        "vision features of 2,400 pictures, 2.90 GB (of 5.00 GB: more would exceed "
        "training.feature_cache_gb or the disk): story 30 of 90"
    )
    assert training._features_sentence({**FEATURES, "tower": "left out"}) == (
        "vision features of 2,400 pictures, 2.90 GB: all are cached, so training does not load the vision tower"
    )
    assert training._left_out({**START, "dropped": 0, "bad": 0}) == ""


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        (None, "Its training had no checkpoint yet (steps 1 to 7 were not in a checkpoint). Start it again: complete steps are "
         "not repeated; training begins at step 1."),
        (5, "Kept: checkpoint 5 of its training (steps 6 to 7 were not in a checkpoint). Start it again: complete steps are not "
         "repeated; training resumes at step 6."),
        (7, "Kept: checkpoint 7 of its training. Start it again: complete steps are not repeated; training resumes at step 8."),
    ],
)  # fmt: skip
def test_a_cancelled_run_says_what_it_has_kept_and_where_it_goes_on(
    checkpoint: int | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    work = tmp_path / "train" / "0123456789abcdef"
    work.mkdir(parents=True)
    (work / training.OWNER).write_text("mine")
    (work / "progress.jsonl").write_text("".join(f'{{"event": "step", "step": {n}}}\n' for n in range(1, 8)))
    if checkpoint:
        checkpoints.path(work, checkpoint).mkdir()
    checkpoints.temporary(work, 9).mkdir()

    assert training.kept("mine") == said
    assert training.kept("another's") == "Start it again: complete steps are not repeated."
