"""Whole trainings in separate processes, with an untrained tiny model: they learn, stop and resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from storyreason import architecture, chat, dataset, model, runs, training
from storyreason.errors import ModelError, RunError, TrainingError
from storyreason.training import checkpoints, features, process, progress, setup
from tests.storyreason.training.whole import PACKED, Lines, MakeJob, files, left_running, losses, same, weights
from tests.tiny import file_size_limit

pytestmark = pytest.mark.server


def test_a_training_learns_and_one_that_was_stopped_twice_learns_the_same(make_job: MakeJob) -> None:
    # Given a training that nothing disturbed
    calm = make_job("calm", **PACKED)
    told = Lines()
    (temporary := calm.work.parent / "temporary").mkdir()
    result = training.run(calm, told, env={"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)})
    assert list(temporary.glob("torchelastic*")) == []
    first, last = told.of("step")[0], told.of("step")[-1]
    assert told.steps() == list(range(1, last["steps"] + 1))
    assert last["loss"] < first["loss"]
    assert 0 < last["answer_tokens_per_s"] < last["tokens_per_s"]
    assert last["seconds_left"] == 0
    assert 0 <= last["data_wait"] < 1
    assert 0 < last["mfu"] <= 1
    assert last["peak_memory"] > 1e8
    start = told.of("start")[0]
    assert (start["distributed_type"], start["frozen"]) == ("NO", 0)
    assert start["trainable"] == sum(parameter.numel() for parameter in model.load(calm.base).parameters())
    assert [line["step"] for line in told.of("validation")] == [4, 7]
    assert told[-1]["event"] == "end"
    assert model.prompt(result) == {"images_first": calm.training.images_first, "boxes": "original"}
    assert len(checkpoints.steps(calm.work)) <= checkpoints.KEPT + 1

    # When another is cancelled after its third step
    stirred = make_job("stirred", **PACKED)
    with pytest.raises(KeyboardInterrupt):
        training.run(stirred, Lines(stop_at=("step", 3)), env={"OMP_NUM_THREADS": "1"})
    assert left_running(stirred) == []
    kept = checkpoints.newest(stirred.work)
    assert kept is not None
    assert kept >= 2
    # and then finds the disk full
    full = Lines()
    with (
        file_size_limit(200_000),
        pytest.raises(TrainingError, match=rf"^The disk .*could not be written.*step {kept} stays"),
    ):
        training.run(stirred, full, env={"OMP_NUM_THREADS": "1"})
    assert checkpoints.newest(stirred.work) == kept
    assert full.of("start")[-1]["step"] == kept
    # Then the next attempt gives the same losses and weights, byte for byte, and its follower saw each step once
    after = Lines()
    assert files(training.run(stirred, after, after_step=2, env={"OMP_NUM_THREADS": "1"})) == files(result)
    assert losses(stirred) == losses(calm)
    assert after.steps() == list(range(3, last["steps"] + 1))


@pytest.mark.long
def test_another_configuration_is_not_resumed_from_a_checkpoint_unless_it_may_start_over(make_job: MakeJob) -> None:
    settings = {**PACKED, "max_steps": 2}
    training.run(make_job("one", **settings), Lines(), env={"OMP_NUM_THREADS": "1"})
    assert checkpoints.steps(make_job("one").work) == [2]
    other = make_job("one", **settings, learning_rate=1e-4)
    with pytest.raises(
        TrainingError, match=r"checkpoint of another run .other learning_rate.: set training.afresh=true"
    ):
        training.run(other, Lines())
    other = other.model_copy(update={"training": other.training.model_copy(update={"afresh": True, "max_steps": 1})})
    fresh = Lines()
    training.run(other, fresh, env={"OMP_NUM_THREADS": "1"})
    assert fresh.of("start")[-1]["step"] == 0
    assert checkpoints.steps(other.work) == [1]


@pytest.mark.long
def test_with_the_same_precision_and_number_of_threads_a_training_writes_the_same_bytes(make_job: MakeJob) -> None:
    settings = {**PACKED, "dtype": "auto", "max_steps": 2, "mode": "language"}
    one, other = (
        files(training.run(make_job(name, **settings), Lines(), env={"OMP_NUM_THREADS": "2"}))
        for name in ("one", "other")
    )

    assert one == other


def test_when_its_follower_is_killed_the_training_writes_a_checkpoint_and_ends(make_job: MakeJob) -> None:
    job = make_job("orphan", epochs=50, save_every=1000, accelerate=None)
    job_file = job.work.parent / "follow.json"
    job_file.write_text(job.model_dump_json())
    follower = subprocess.Popen(
        [
            *[sys.executable, "-c"],
            "import sys, pathlib; from storyreason import training; "
            "training.run(training.Job.model_validate_json(pathlib.Path(sys.argv[1]).read_text()), "
            "lambda line: print(line['event'], flush=True))",
            str(job_file),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert follower.stdout is not None
    try:
        assert any(line.strip() == "step" for line in follower.stdout)
        trainers = [psutil.Process(pid) for pid in left_running(job)]
        assert trainers
        # A second training of the same folder is refused, and names the first.
        with pytest.raises(RunError, match="is being written by process"), runs.lock(job.work, wait=0):
            pass
    finally:
        follower.send_signal(signal.SIGKILL)
        follower.communicate()
    _, alive = psutil.wait_procs(trainers, timeout=60)
    assert alive == []
    lines = progress.read(job.work)
    assert lines[-1]["event"] == "stopped"
    assert "the process that asked for the training is gone" in lines[-1]["reason"]
    assert checkpoints.newest(job.work) == lines[-1]["step"] >= 1


def test_a_loss_that_is_not_finite_ends_the_training_names_its_stories_and_keeps_the_last_good_checkpoint(
    make_job: MakeJob,
) -> None:
    # Given a picture's features that are corrupt on the disk, of a story that the third step takes first
    job = make_job("poisoned", mode="language", save_every=1, max_steps=4, **PACKED)
    encoder = chat.Encoder(model.load_processor(job.base), job.training.images_first)
    stories, _, schedule = process.scheduled(dataset.load(job.data, "train"), job, encoder, processes=1)
    holder = architecture.inside(setup.load_model(job, cuda=False))
    cache = features.FeatureCache(job.work / "features", holder, encoder, torch.device("cpu"), bf16=False)
    cache.compute(stories, range(len(stories)), lambda done, of: None, lambda: False)
    early = {index for step in (0, 1) for _, index in schedule.step(step)}
    index = next(index for _, index in schedule.step(2) if index not in early)
    spoilt = stories.story(index)
    file = cache.path(spoilt.pictures[0])
    whole = file.read_bytes()
    file.write_bytes(whole[:24] + np.full((len(whole) - 24) // 4, np.nan, np.float32).tobytes())  # after its grid
    # When it is trained on
    with pytest.raises(TrainingError) as refused:
        training.run(job, Lines(), env={"OMP_NUM_THREADS": "1"})
    # Then its step is named, and the checkpoint before that is good
    assert "The loss of step 3 is nan; its stories: " in str(refused.value)
    assert spoilt.story_id in str(refused.value)
    assert left_running(job) == []
    assert checkpoints.newest(job.work) == 2
    file.unlink()
    again = Lines()
    training.run(job, again, env={"OMP_NUM_THREADS": "1"})
    assert again.of("start")[-1]["step"] == 2
    assert again.of("end")[0]["step"] == 4
    assert file.read_bytes() == whole


@pytest.mark.long
def test_with_cached_features_a_training_has_the_same_losses(make_job: MakeJob) -> None:
    # Given a frozen tower whose features are not cached
    without, told = make_job("without", mode="language", feature_cache_gb=0, **PACKED), Lines()
    training.run(without, told, env={"OMP_NUM_THREADS": "1"})
    assert told.of("features") == []
    # When there is room for those of some stories
    some, told = make_job("some", mode="language", feature_cache_gb=1e-4, **PACKED), Lines()
    training.run(some, told, env={"OMP_NUM_THREADS": "1"})
    # Then the size is announced, the cap is kept, and nothing else has changed
    announced = told.of("features")[0]
    assert 0 < announced["bytes"] <= 100_000 < announced["wanted_bytes"]
    kept = [file for file in (some.work / "features").glob("*/*/*") if file.is_file()]
    assert (len(kept), sum(file.stat().st_size for file in kept)) == (announced["pictures"], announced["bytes"])
    assert losses(some) == pytest.approx(losses(without), abs=1e-4)
    # and when there is room for all, the tower is left out of the training, and complete in its result
    all_, told = make_job("all", mode="language", **PACKED), Lines()
    result = training.run(all_, told, env={"OMP_NUM_THREADS": "1"})
    assert told.of("features")[-1]["tower"] == "left out"
    assert losses(all_) == pytest.approx(losses(without), abs=1e-4)
    base, tuned = weights(Path(all_.base)), weights(result)
    assert {name for name in base if tuned[name].equal(base[name])} == {name for name in base if "visual" in name}


@pytest.mark.long
def test_a_training_that_no_longer_gains_stops_on_request_and_leaves_its_best(make_job: MakeJob) -> None:
    job, told = make_job("early", learning_rate=0.5, epochs=20, early_stopping=2, scheduler="constant"), Lines()
    result = training.run(job, told, env={"OMP_NUM_THREADS": "1"})
    stop, end = told.of("early_stop")[0], told.of("end")[0]
    assert stop["step"] == end["step"] == told.steps()[-1] < told.of("start")[0]["steps"]
    by_step = {line["step"]: line["loss"] for line in told.of("validation")}
    assert end["best_step"] == stop["best_step"] == min(by_step, key=by_step.__getitem__)
    assert len([step for step in by_step if step > stop["best_step"]]) == 2
    assert checkpoints.path(job.work, stop["best_step"]).is_dir()
    assert weights(result)
    # and when it is killed before its result is written, the next attempt has no step to do
    trained = weights(result)
    shutil.rmtree(result)
    again = Lines()
    assert same(weights(training.run(job, again, env={"OMP_NUM_THREADS": "1"})), trained)
    assert (again.steps(), len(again.of("early_stop"))) == (told.steps(), 1)


@pytest.mark.long
def test_an_epoch_whose_validation_was_left_out_has_it_after_the_resume(make_job: MakeJob) -> None:
    # Given a training that was asked to stop while it validated its first epoch
    job, told = make_job("hurried"), Lines(stop_at=("validation", 4))
    with pytest.raises(KeyboardInterrupt):
        training.run(job, told, env={"OMP_NUM_THREADS": "1"})
    (first,) = told.of("validation")
    for step in checkpoints.steps(job.work):
        if step > 4:
            shutil.rmtree(checkpoints.path(job.work, step))
    forget_validation(checkpoints.path(job.work, 4), log_history=[], best_metric=None, best_global_step=None)
    # When it resumes
    again = Lines()
    training.run(job, again, env={"OMP_NUM_THREADS": "1"})
    # Then the epoch is validated, and its loss is that of the checkpoint
    validated = {line["step"]: line["loss"] for line in again.of("validation") if line["time"] > first["time"]}
    assert list(validated) == [4, 7]
    assert validated[4] == pytest.approx(first["loss"], rel=1e-4)
    assert again.of("end")[0]["best_loss"] == min(validated.values())

    # and after the last epoch only the validation is left
    shutil.rmtree(job.work / "result")
    known = [{"step": 4, "eval_loss": validated[4]}]
    forget_validation(checkpoints.path(job.work, 7), log_history=known, best_metric=validated[4], best_global_step=4)
    last = Lines()
    assert weights(training.run(job, last, env={"OMP_NUM_THREADS": "1"}))
    assert [line["loss"] for line in last.of("validation")[-2:]] == [pytest.approx(validated[7], rel=1e-4)] * 2
    assert (last.steps(), last.of("end")[0]["best_loss"]) == (again.steps(), again.of("end")[0]["best_loss"])


def forget_validation(checkpoint: Path, **state: Any) -> None:
    """As if a checkpoint's epoch had not been validated."""
    file = checkpoint / "trainer_state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **state}))


def test_a_base_that_cannot_be_loaded_is_refused_by_name(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("baseless").model_copy(update={"base": str(tmp_path / "nothing")})
    with pytest.raises(ModelError, match="nothing cannot be loaded"):
        training.run(job, Lines())
