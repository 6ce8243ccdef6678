"""Whole trainings in several processes, with an untrained tiny model: they resume, fail and meet together."""

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from storyreason import model, training
from storyreason.errors import TrainingError
from storyreason.training import checkpoints, launch, machine, sharding
from tests.storyreason.training.whole import (
    FSDP,
    FULL,
    LORA,
    PACKED,
    PATCH,
    Lines,
    MakeJob,
    left_running,
    losses,
    same,
    weights,
)

pytestmark = pytest.mark.server


@pytest.mark.long
def test_a_training_resumes_in_other_processes_if_a_step_takes_as_many_stories(make_job: MakeJob) -> None:
    # Given a training in one process that was cancelled
    calm, stirred = make_job("calm", max_steps=4), make_job("stirred", max_steps=4)
    training.run(calm, Lines(), env={"OMP_NUM_THREADS": "1"})
    with pytest.raises(KeyboardInterrupt):
        training.run(stirred, Lines(stop_at=("checkpoint", 2)), env={"OMP_NUM_THREADS": "1"})
    # When it is resumed in two, with twice as many stories per step
    two = {**FULL, "max_steps": 4, "accelerate": None, "processes": 2}
    twice = stirred.model_copy(update={"training": training.TrainingConfig(**two)})
    # Then that is refused
    with pytest.raises(TrainingError, match=r"another run .other stories_per_step.: .* x processes = 4; or"):
        training.run(twice, Lines(), env={"OMP_NUM_THREADS": "1"})
    # and with as many, it has the losses of one
    shared = stirred.model_copy(update={"training": training.TrainingConfig(**{**two, "batch_size": 1})})
    again = Lines()
    training.run(shared, again, env={"OMP_NUM_THREADS": "1"})
    assert (again.of("start")[-1]["processes"], again.of("start")[-1]["step"]) in ((2, 2), (2, 3))
    assert losses(stirred) == pytest.approx(losses(calm), abs=1e-4)


def test_when_one_process_dies_the_others_end_within_a_minute_and_the_cause_is_named(make_job: MakeJob) -> None:
    job = make_job("bereaved", epochs=50, save_every=1, **FSDP)

    def follow(line: dict[str, Any]) -> None:
        if (line["event"], line["step"]) == ("checkpoint", 1):
            # Not the launcher: it is this process' child, and whoever waits for that takes its exit code.
            workers = [one for one in map(psutil.Process, left_running(job)) if "RANK" in one.environ()]
            (last,) = (one for one in workers if one.environ()["RANK"] == "1")
            last.kill()
            _, alive = psutil.wait_procs(workers, timeout=60)
            assert len(workers) == 2 and alive == []

    with pytest.raises(TrainingError, match=r"was killed \(kill -9\).*resumes from its newest checkpoint"):
        training.run(job, follow, env=PATCH)
    assert left_running(job) == []
    assert checkpoints.newest(job.work) is not None


def test_two_fsdp2_processes_save_the_tower_that_they_trained_without(make_job: MakeJob) -> None:
    job, told = make_job("sharded", mode="language", max_steps=2, **FSDP), Lines()
    result = training.run(job, told, env=PATCH)
    assert told.of("features")[-1]["tower"] == "left out"
    base, tuned = weights(Path(job.base)), weights(result)
    assert {name for name in base if tuned[name].equal(base[name])} == {name for name in base if "visual" in name}
    # A checkpoint without the tower is refused by a training that has it
    shards = checkpoints.path(job.work, 2)
    sharding.check(shards, torch.nn.Module())
    with pytest.raises(TrainingError, match=r"without the vision tower.*training\.feature_cache_gb"):
        sharding.check(shards, model.load(job.base))


@pytest.mark.long
def test_two_machines_train_together(make_job: MakeJob, tmp_path: Path) -> None:
    """Both are this one; they share the folder of the run, and meet at an address."""
    config = (machine.CONFIGS / "fsdp2-2nodes.yaml").read_text()
    for gpus, here in (("use_cpu: false", "use_cpu: true"), ("num_processes: 16", "num_processes: 2"), ("bf16", "no")):
        assert gpus in config
        config = config.replace(gpus, here)
    (tmp_path / "two.yaml").write_text(config)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    job, told = make_job("apart", **{**FSDP, "accelerate": str(tmp_path / "two.yaml")}, max_steps=3), Lines()
    env = {**PATCH, launch.ADDRESS: address}
    # Given the second machine, on which the user has typed the instructions of the first
    said = launch.others(launch._command(machine.Machine.of(job.training), env), job.work / "job.json").partition(
        "type  "
    )[2]
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


@pytest.mark.parametrize("mode", [{}, pytest.param(LORA, marks=pytest.mark.long)], ids=["full", "lora"])
def test_two_fsdp2_processes_train_what_one_trains_and_resume_where_they_were_killed(
    make_job: MakeJob, mode: dict[str, Any]
) -> None:
    # Given one process and, on the same stories in every step, two with FSDP2
    # and packed, which changes nothing, or with one process recomputing a long story while the other keeps a short one's
    packed = {"pack_tokens": 1850, "recompute": "long", "dtype": "auto"} if mode else PACKED
    settings = {**mode, **FSDP, **packed}
    alone, shared, apart = make_job("alone", **mode), make_job("shared", **settings), make_job("apart", **settings)
    told = Lines()
    result = training.run(shared, told, env=PATCH)
    assert told.of("start")[0]["distributed_type"] == "FSDP"
    assert told.of("start")[0]["processes"] == 2
    # each layer by itself; with adapters the tower is left out
    parts = told.of("sharded")[0]["parts"]
    assert (parts["Qwen2_5_VLDecoderLayer"], parts.get("Qwen2_5_VLVisionBlock", 0)) == (2, 0 if mode else 2)
    if not mode:
        training.run(alone, Lines(), env={"OMP_NUM_THREADS": "1"})
        assert losses(shared) == pytest.approx(losses(alone), abs=1e-3)
    # When another is cut off in the middle
    with pytest.raises(KeyboardInterrupt):
        training.run(apart, Lines(stop_at=("step", 3)), env=PATCH)
    assert left_running(apart) == []
    # Then it resumes with FSDP2 to the same losses and weights, and what came out loads
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
