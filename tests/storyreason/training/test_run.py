"""Whole trainings in processes of their own, with an untrained tiny model: they learn, they stop, they go on."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from storyreason import chat, dataset, model, runs, training
from storyreason.errors import ModelError, RunError, TrainingError
from storyreason.training import checkpoints, features, launch, process, progress, setup, sharding
from tests.tiny import file_size_limit

pytestmark = pytest.mark.server

FULL = {
    "mode": "full", "dtype": "float32", "accelerate": "cpu", "learning_rate": 3e-3, "batch_size": 2, "accumulation": 2,
    "epochs": 2, "recompute": "none", "save_every": 2,
}  # fmt: skip
FSDP = {"accelerate": "fsdp2-cpu2", "batch_size": 1}
PACKED = {"pack_tokens": 4096}
"""Rows of two stories: two rows for the four of a step."""
LORA = {"mode": "lora", "rank": 4, "learning_rate": 3e-2, "recompute": "selective"}
PATCH = {
    "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parents[2] / "fsdp_cpu", Path(__file__).parents[3]))),
    "OMP_NUM_THREADS": "1",
}
"""What accelerate needs for FSDP on a CPU, and the training itself, of this checkout."""

MakeJob = Callable[..., training.Job]


@pytest.fixture
def make_job(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> MakeJob:
    def make(name: str, **config: Any) -> training.Job:
        chosen = training.TrainingConfig(**{**FULL, **config})
        return training.Job(base=str(tiny_base), data=tiny_data, work=tmp_path / name, training=chosen)

    return make


class Lines(list[dict[str, Any]]):
    """What a follower was told; `stop_at` makes it raise there, as a cancelled flow does (a BaseException)."""

    def __init__(self, stop_at: tuple[str, int] | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at

    def __call__(self, line: dict[str, Any]) -> None:
        self.append(line)
        if (line["event"], line["step"]) == self.stop_at:
            raise KeyboardInterrupt

    def steps(self) -> list[int]:
        return [line["step"] for line in self if line["event"] == "step"]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self if line["event"] == event]


def losses(job: training.Job) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in progress.read(job.work) if line["event"] == "step"}


def left_running(job: training.Job) -> list[int]:
    """Processes that name the job's folder."""
    found = []
    for one in psutil.process_iter():
        try:
            if str(job.work) in " ".join(one.cmdline()) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def weights(result: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found = {name: tensor for path in sorted(result.glob("*.safetensors")) for name, tensor in load_file(path).items()}
    assert found
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(bool((tensor == other[name]).all()) for name, tensor in one.items())


def test_a_training_learns_and_one_that_was_stopped_twice_learns_the_same(make_job: MakeJob) -> None:
    # Given a training that nothing disturbed
    calm = make_job("calm", **PACKED)
    told = Lines()
    result = training.run(calm, told, env={"OMP_NUM_THREADS": "1"})
    first, last = told.of("step")[0], told.of("step")[-1]
    assert told.steps() == list(range(1, last["steps"] + 1))
    assert last["loss"] < first["loss"]
    assert 0 < last["answer_tokens_per_s"] < last["tokens_per_s"]
    assert last["seconds_left"] == 0
    assert 0 <= last["data_wait"] < 1
    assert last["mfu"] > 0
    assert last["peak_memory"] > 1e8
    start = told.of("start")[0]
    assert (start["distributed_type"], start["frozen"]) == ("NO", 0)
    assert start["trainable"] == sum(parameter.numel() for parameter in model.load(calm.base).parameters())
    assert [line["step"] for line in told.of("validation")] == [4, 7]
    assert told[-1]["event"] == "end"
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
    with file_size_limit(200_000), pytest.raises(TrainingError, match=rf"could not be written.*step {kept} stays"):
        training.run(stirred, full, env={"OMP_NUM_THREADS": "1"})
    assert checkpoints.newest(stirred.work) == kept
    assert full.of("start")[-1]["step"] == kept
    # Then the next attempt gives the same losses and weights, and its follower saw each step once
    after = Lines()
    assert same(weights(training.run(stirred, after, after_step=2, env={"OMP_NUM_THREADS": "1"})), weights(result))
    assert losses(stirred) == losses(calm)
    assert after.steps() == list(range(3, last["steps"] + 1))

    # and a base whose weights it does not fit is told apart from its checkpoints
    other = stirred.model_copy(
        update={"training": training.TrainingConfig(**{**FULL, **PACKED, "learning_rate": 1e-4})}
    )
    with pytest.raises(
        TrainingError, match=r"checkpoint of another run .other learning_rate.: set training.afresh=true"
    ):
        training.run(other, Lines())
    # unless it may start afresh
    other = other.model_copy(update={"training": other.training.model_copy(update={"afresh": True, "max_steps": 1})})
    fresh = Lines()
    training.run(other, fresh, env={"OMP_NUM_THREADS": "1"})
    assert fresh.of("start")[-1]["step"] == 0
    assert checkpoints.steps(other.work) == [1]


def test_a_training_goes_on_in_other_processes_while_a_step_takes_as_many_stories(make_job: MakeJob) -> None:
    # Given a training in one process that was cancelled
    calm, stirred = make_job("calm", max_steps=4), make_job("stirred", max_steps=4)
    training.run(calm, Lines(), env={"OMP_NUM_THREADS": "1"})
    with pytest.raises(KeyboardInterrupt):
        training.run(stirred, Lines(stop_at=("checkpoint", 2)), env={"OMP_NUM_THREADS": "1"})
    # When it shall go on in two, with twice as many stories a step
    two = {**FULL, "max_steps": 4, "accelerate": None, "processes": 2}
    twice = stirred.model_copy(update={"training": training.TrainingConfig(**two)})
    # Then that is refused
    with pytest.raises(TrainingError, match=r"another run .other stories_per_step.: set training.afresh=true"):
        training.run(twice, Lines(), env={"OMP_NUM_THREADS": "1"})
    # and with as many, it has the losses of one
    shared = stirred.model_copy(update={"training": training.TrainingConfig(**{**two, "batch_size": 1})})
    again = Lines()
    training.run(shared, again, env={"OMP_NUM_THREADS": "1"})
    assert (again.of("start")[-1]["processes"], again.of("start")[-1]["step"]) in ((2, 2), (2, 3))
    assert losses(stirred) == pytest.approx(losses(calm), abs=1e-4)


def test_when_its_follower_is_killed_the_training_writes_a_checkpoint_and_ends(make_job: MakeJob) -> None:
    job = make_job("orphan", epochs=50, save_every=1000)
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
        # A second training of the same folder finds it taken, and says by whom.
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
    # Given a picture's features that are spoilt on the disk, of a story that the third step takes first
    job = make_job("poisoned", mode="language", save_every=1, max_steps=4, **PACKED)
    encoder = chat.Encoder(model.load_processor(job.base), images_first=False)
    stories, _, schedule = process.scheduled(dataset.load(job.data, "train"), job, encoder, processes=1)
    holder = features.tower_of(setup.load_model(job, cuda=False))
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


def test_with_kept_features_a_training_has_the_losses_that_it_has_without(make_job: MakeJob) -> None:
    # Given a frozen tower whose features are not kept
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
    assert losses(some) == pytest.approx(losses(without), abs=1e-5)
    # and when there is room for all, the tower is left out of the training, and whole in its result
    all_, told = make_job("all", mode="language", **PACKED), Lines()
    result = training.run(all_, told, env={"OMP_NUM_THREADS": "1"})
    assert told.of("features")[-1]["tower"] == "left out"
    assert losses(all_) == pytest.approx(losses(without), abs=1e-5)
    base, tuned = weights(Path(all_.base)), weights(result)
    assert {name for name in base if tuned[name].equal(base[name])} == {name for name in base if "visual" in name}


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


def test_an_epoch_whose_validation_was_left_out_has_it_after_the_resume(make_job: MakeJob) -> None:
    # Given a training that was told to stop in the last pass of its first epoch
    job, told = make_job("hurried"), Lines(stop_at=("checkpoint", 4))
    with pytest.raises(KeyboardInterrupt):
        training.run(job, told, env={"OMP_NUM_THREADS": "1"})
    (first,) = told.of("validation")
    for step in checkpoints.steps(job.work):
        if step > 4:
            shutil.rmtree(checkpoints.path(job.work, step))
    file = checkpoints.path(job.work, 4) / "trainer_state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps({**state, "log_history": [], "best_metric": None, "best_global_step": None}))
    # When it goes on
    again = Lines()
    training.run(job, again, env={"OMP_NUM_THREADS": "1"})
    # Then the epoch is validated, and its loss is that of the checkpoint
    validated = {line["step"]: line["loss"] for line in again.of("validation") if line["time"] > first["time"]}
    assert list(validated) == [4, 7]
    assert validated[4] == pytest.approx(first["loss"])
    assert again.of("end")[0]["best_loss"] == min(validated.values())


def test_a_base_that_cannot_be_loaded_is_refused_by_name(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("baseless").model_copy(update={"base": str(tmp_path / "nothing")})
    with pytest.raises(ModelError, match="nothing cannot be loaded"):
        training.run(job, Lines())


def test_when_one_process_dies_the_others_end_within_a_minute_and_the_cause_is_told(make_job: MakeJob) -> None:
    job = make_job("bereaved", epochs=50, save_every=1, **FSDP)

    def follow(line: dict[str, Any]) -> None:
        if (line["event"], line["step"]) == ("checkpoint", 1):
            # Not the launcher: it is this process' child, and whoever waits for that takes its exit code.
            workers = [one for one in map(psutil.Process, left_running(job)) if "RANK" in one.environ()]
            (last,) = (one for one in workers if one.environ()["RANK"] == "1")
            last.kill()
            _, alive = psutil.wait_procs(workers, timeout=60)
            assert len(workers) == 2 and alive == []

    with pytest.raises(TrainingError, match=r"was killed \(kill -9\).*goes on from its newest checkpoint"):
        training.run(job, follow, env=PATCH)
    assert left_running(job) == []
    assert checkpoints.newest(job.work) is not None


def test_two_fsdp2_processes_save_the_tower_that_they_trained_without(make_job: MakeJob) -> None:
    job, told = make_job("sharded", mode="language", max_steps=2, **FSDP), Lines()
    result = training.run(job, told, env=PATCH)
    assert told.of("features")[-1]["tower"] == "left out"
    base, tuned = weights(Path(job.base)), weights(result)
    assert {name for name in base if tuned[name].equal(base[name])} == {name for name in base if "visual" in name}
    # A checkpoint without it is no way on for a training that has it
    shards = checkpoints.path(job.work, 2)
    sharding.check(shards, torch.nn.Module())
    with pytest.raises(TrainingError, match=r"without the vision tower.*training\.feature_cache_gb"):
        sharding.check(shards, model.load(job.base))


def test_two_machines_train_together(make_job: MakeJob, tmp_path: Path) -> None:
    """Both are this one; they share the folder of the run, and meet at an address."""
    config = (launch.CONFIGS / "fsdp2-2nodes.yaml").read_text()
    for gpus, here in (("use_cpu: false", "use_cpu: true"), ("num_processes: 16", "num_processes: 2"), ("bf16", "no")):
        assert gpus in config
        config = config.replace(gpus, here)
    (tmp_path / "two.yaml").write_text(config)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    job, told = make_job("apart", **{**FSDP, "accelerate": str(tmp_path / "two.yaml")}, max_steps=3), Lines()
    env = {**PATCH, launch.ADDRESS: address}
    # Given the second machine, where a person has typed what the first one says
    said = launch.others(launch._command(job.training, env), job.work / "job.json").partition("type  ")[2]
    words = shlex.split(said.replace(" N ", " 1 "))
    accelerate = Path(sys.executable).with_name("accelerate")
    with (tmp_path / "second.txt").open("w+") as log, subprocess.Popen(
        [accelerate, *words[1:]], env={**os.environ, **env}, stdout=log, stderr=subprocess.STDOUT
    ) as second:  # fmt: skip
        try:
            # When the first one trains
            result = training.run(job, told, env=env)
            assert second.wait(60) == 0, (tmp_path / "second.txt").read_text()
        finally:
            second.terminate()
    # Then they do it together
    assert (told.of("start")[0]["distributed_type"], told.of("start")[0]["processes"]) == ("FSDP", 2)
    assert told.steps() == [1, 2, 3]
    assert weights(result).keys() >= weights(Path(job.base)).keys()
    assert left_running(job) == []


@pytest.mark.parametrize("mode", [{}, LORA], ids=["full", "lora"])
def test_two_fsdp2_processes_train_what_one_trains_and_go_on_where_they_were_killed(
    make_job: MakeJob, mode: dict[str, Any]
) -> None:
    # Given one process and, on the same stories in every step, two with FSDP2
    packed = {} if mode else PACKED  # and packed, which changes nothing
    alone, shared = make_job("alone", **mode), make_job("shared", **mode, **FSDP, **packed)
    apart = make_job("apart", **mode, **FSDP, **packed)
    told = Lines()
    result = training.run(shared, told, env=PATCH)
    assert told.of("start")[0]["distributed_type"] == "FSDP"
    assert told.of("start")[0]["processes"] == 2
    # each layer by itself; with adapters the tower is left out
    parts = told.of("sharded")[0]["parts"]
    assert (parts["Qwen2_5_VLDecoderLayer"], parts.get("Qwen2_5_VLVisionBlock", 0)) == (2, 0 if mode else 2)
    if not mode:
        training.run(alone, Lines(), env={"OMP_NUM_THREADS": "1"})
        assert losses(shared) == pytest.approx(losses(alone), abs=1e-4)
    # When another is cut off in the middle
    with pytest.raises(KeyboardInterrupt):
        training.run(apart, Lines(stop_at=("step", 3)), env=PATCH)
    assert left_running(apart) == []
    # Then it goes on with FSDP2 to the same losses and weights, and what came out loads
    again = Lines()
    assert same(weights(training.run(apart, again, env=PATCH)), weights(result))
    assert losses(apart) == losses(shared)
    assert {line["distributed_type"] for line in again.of("start")} == {"FSDP"}
    assert again.of("start")[-1]["step"] >= 2
    out = model.write_folder(apart.base, apart.work / "result", apart.work / "model", "")
    trained = dict(model.load(str(out)).named_parameters())
    changed = {name for name, tensor in model.load(apart.base).named_parameters() if not tensor.equal(trained[name])}
    if mode:
        assert json.loads((apart.work / "result" / "adapter_config.json").read_text())["lora_alpha"] == 8
        assert changed == {name for name in trained if "language_model" in name and "_proj.weight" in name and
                           "self_attn" in name}  # fmt: skip
    else:
        assert changed == trained.keys()
