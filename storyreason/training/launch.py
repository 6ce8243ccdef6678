"""Start the training process, follow it, and never leave it behind."""

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storyreason import errors
from storyreason.errors import ConfigError, TrainingError
from storyreason.training import job as jobs
from storyreason.training import progress, watch
from storyreason.training.config import TrainingConfig
from storyreason.training.job import Job

log = logging.getLogger(__name__)

ERROR_MARK = "storyreason error: "
"""What the training process writes before the one error that a person can mend."""
LOG = "log.txt"
CONFIGS = Path(__file__).resolve().parents[2] / "deploy" / "accelerate"
ADDRESS = "STORYREASON_MAIN_ADDRESS"
"""Environment: where the machines of one training meet, `address:port` of the first."""
PATIENCE = 15.0
"""Seconds between SIGTERM and SIGKILL: time for a checkpoint."""
LESS_MEMORY = "lower training.pack_tokens, or lower training.batch_size and raise training.accumulation alike"
"""Without the latter a step would take fewer stories, and its checkpoints would be refused."""

OnProgress = Callable[[dict[str, Any]], None]


def run(job: Job, on_progress: OnProgress, *, after_step: int = 0, env: Mapping[str, str] | None = None) -> Path:
    """Train in a process of its own, to the end, and give the path of the result (whole weights, or an adapter).

    `on_progress` gets every line of `progress.jsonl` once: those of earlier attempts first, `step` lines only after
    `after_step`. A training that was interrupted goes on from its newest checkpoint. Whatever ends this call early, a
    cancelled flow included, ends the training too: SIGTERM, 15 s for a checkpoint, SIGKILL.

    `env` is laid over this process' environment. Raises TrainingError, or what the training process refused with.
    """
    given = {**os.environ, **(env or {})}
    command = _command(job.training, given)
    attempt = uuid.uuid4().hex
    job_file = jobs.write(job)
    environment = {
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // _processes(job.training))),
        **given,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # this storyreason, not one that happens to lie in the current folder
        **_visible(job.training),
        "STORYREASON_ATTEMPT": attempt,
        watch.PARENT: watch.process_token(os.getpid()),
    }
    if told := others(command, job_file):
        log.warning("%s", told)
    log_path = job.work / LOG
    with log_path.open("a+b") as log_file:
        log_start = log_file.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [*command, "-m", "storyreason.training", str(job_file)],
            stdout=log_file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            for line in _follow(job.work, attempt, after_step, process):
                on_progress(line)
        finally:
            _end(process)
    if process.returncode != 0:
        raise _explained(process.returncode, log_path, log_start)
    return job.work / "result"


def _processes(training: TrainingConfig) -> int:
    """Of this machine."""
    if training.accelerate is None:
        return training.processes
    config = _read(_config_file(training.accelerate))
    return int(config.get("num_processes", 1)) // int(config.get("num_machines", 1))


def deciding(training: TrainingConfig) -> dict[str, Any]:
    """What decides the weights of how many processes train, and how: the stories of a step, and the precision.

    The rest may change between two attempts of a training: 2 processes with `accumulation` 8 go on as 4 with 4.
    """
    file = {} if training.accelerate is None else _read(_config_file(training.accelerate))
    processes = training.processes if training.accelerate is None else int(file.get("num_processes", 1))
    return {
        "stories_per_step": training.batch_size * training.accumulation * processes,
        "mixed_precision": file.get("mixed_precision"),
    }


def _visible(training: TrainingConfig) -> dict[str, str]:
    """The GPUs that the training process sees: `devices`, and none where it trains on the CPU."""
    # The process takes a GPU where it sees one, and accelerate's settings for a CPU do not go with that.
    on_cpu = training.accelerate is None or _read(_config_file(training.accelerate)).get("use_cpu", False)
    devices = "" if on_cpu else training.devices
    return {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}


def _read(path: Path) -> dict[str, Any]:
    import yaml

    read = yaml.safe_load(path.read_text())
    if not isinstance(read, dict):
        raise ConfigError(
            f"training.accelerate: {path} holds no settings of accelerate; make one by `accelerate config`."
        )
    return read


def others(command: Sequence[str], job_file: Path) -> str:
    """What to type on the other machines of a training, or nothing where it is one machine's."""
    if "--machine_rank" not in command:
        return ""
    at = command.index("--machine_rank") + 1
    words = [
        "accelerate",
        "launch",
        *command[3:at],
        "N",
        *command[at + 1 :],
        "-m",
        "storyreason.training",
        str(job_file),
    ]
    return f"This training waits for its other machines: on machine N = 1, 2, … type  {shlex.join(words)}"


def check_machine(training: TrainingConfig) -> None:
    """Raises TrainingError or ConfigError where this machine cannot train so; costs nothing."""
    _command(training, os.environ)


def _command(training: TrainingConfig, environment: Mapping[str, str]) -> list[str]:
    """How the processes are started. Raises TrainingError or ConfigError before anything runs."""
    if training.accelerate is None and training.processes > 1:
        _need_gpu(training, None)
        return [
            *[sys.executable, "-m", "torch.distributed.run", "--standalone"],
            *["--nproc-per-node", str(training.processes)],
        ]
    path = _config_file(training.accelerate or "cpu")
    _need_gpu(training, path)
    config = _read(path)
    if config.get("distributed_type") == "FSDP":
        _check_fsdp(config.get("fsdp_config") or {}, path)
    if int(config.get("num_machines", 1)) > 1:
        meet = _meeting(config, environment, path)
    else:  # Port 0: accelerate looks for a free one, so that two trainings do not meet.
        meet = ["--main_process_port", "0"] if config.get("distributed_type") == "FSDP" else []
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path), *meet]


def _check_fsdp(given: Mapping[str, Any], path: Path) -> None:
    """Raises ConfigError for what `accelerate config` may write, or leave to its default, and this training cannot do."""
    for key, default, wanted, why in (
        ("fsdp_version", 1, 2, "models are sharded by FSDP2 alone"),
        ("fsdp_cpu_ram_efficient_loading", True, False, "processes that load no weights have zeros"),
        ("fsdp_state_dict_type", "SHARDED_STATE_DICT", "SHARDED_STATE_DICT", "checkpoints are written in shards"),
    ):
        if (found := given.get(key, default)) != wanted:
            said = f"says {key}: {json.dumps(found)}" if key in given else f"does not say {key}"
            raise ConfigError(f"{path} {said}: write {key}: {json.dumps(wanted)} under fsdp_config, for {why}.")


def _meeting(config: Mapping[str, Any], environment: Mapping[str, str], path: Path) -> list[str]:
    """Where the machines of a training meet; this one is the first."""
    host, _, port = environment.get(ADDRESS, "").rpartition(":")
    if not host and not port and "main_process_ip" in config:
        host, port = str(config["main_process_ip"]), str(config.get("main_process_port", 29500))
    if not host or not port.isdecimal():
        raise ConfigError(
            f"training.accelerate = {path.stem} trains on {config['num_machines']} machines: set {ADDRESS} to the address "
            "of this one and a free port, such as 10.0.0.1:29500."
        )
    return ["--machine_rank", "0", "--main_process_ip", host, "--main_process_port", port]


def _config_file(name: str) -> Path:
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
        raise ConfigError(f"training.accelerate = {name!r} is no file; name one of {known}, or a path.")
    return path


def _need_gpu(training: TrainingConfig, config: Path | None) -> None:
    """Raises TrainingError where there is no GPU, or fewer than processes, and such are wanted."""
    on_cpu = config is None or "use_cpu: true" in config.read_text()
    if on_cpu and training.dtype != "bfloat16":
        return
    import torch

    if not torch.cuda.is_available():
        wants = f"training.dtype={training.dtype}" + (f" with training.accelerate={config.stem}" if config else "")
        raise TrainingError(
            f"{wants} needs a GPU, and this machine shows none (torch {torch.__version__}): use the preset sample, or "
            "set training.dtype=auto and training.accelerate=cpu."
        )
    wanted = 0 if on_cpu else _processes(training)
    there = len(training.devices.split(",")) if training.devices else torch.cuda.device_count()
    if there < wanted:
        shown = f"training.devices={training.devices} names" if training.devices else "this machine shows"
        raise TrainingError(
            f"training.accelerate={training.accelerate} wants {wanted} GPUs, one for each process on this machine, and "
            f"{shown} {there}: set training.accelerate={_fitting(there)}."
        )


def _fitting(gpus: int) -> str:
    """The file of `CONFIGS` that takes most of so many GPUs, and no more."""
    read = {path.stem: _read(path) for path in CONFIGS.glob("*.yaml")}
    taken = {
        name: config["num_processes"]
        for name, config in sorted(read.items())
        if not config["use_cpu"] and config["num_machines"] == 1 and config["num_processes"] <= gpus
    }
    return max(taken, key=taken.__getitem__)


def _follow(work: Path, attempt: str, after_step: int, process: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
    """The lines of the progress file, from the moment at which the attempt's own `start` line is in it."""
    offset, began = 0, False
    while True:
        ended = process.poll() is not None
        began = began or progress.holds(work, attempt)
        if began:  # from now on the file only grows
            lines, offset = progress.read_from(work, offset)
            yield from (line for line in lines if line["event"] != "step" or line["step"] > after_step)
        if ended:
            return
        time.sleep(0.2)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the launcher and all it started. Torchrun gives its children sessions of their own: look them up first."""
    import psutil

    if process.poll() is None:
        try:
            children = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        for child in children:
            _quietly(child.terminate)
        _quietly(lambda: os.killpg(process.pid, signal.SIGTERM))
        _, left = psutil.wait_procs(children, timeout=PATIENCE)
        for child in left:
            _quietly(child.kill)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            _quietly(lambda: os.killpg(process.pid, signal.SIGKILL))
    process.wait()


def _quietly(action: Callable[[], Any]) -> None:
    """Do it to a process that may just have ended by itself."""
    import psutil

    try:
        action()
    except (ProcessLookupError, psutil.NoSuchProcess):
        return


def _explained(code: int, log_path: Path, start: int) -> errors.StoryReasonError:
    """The error that a training process ended with: its own, a known cause, or the last lines of its log."""
    with log_path.open("rb") as file:
        file.seek(start)
        said = file.read().decode(errors="replace")
    # Where one process is killed, another may say that it could not go on: torchrun knows which came first.
    killed = "Signal 9 (SIGKILL) received" in said.partition("Root Cause")[2]
    for line in () if killed else said.splitlines():
        if line.startswith(ERROR_MARK):
            told = json.loads(line.removeprefix(ERROR_MARK))
            kind: type[errors.StoryReasonError] = getattr(errors, told["error"], TrainingError)
            return kind(told["message"])
    tail = "\n".join(said.splitlines()[-15:])
    if "No space left on device" in said:
        advice = "The disk is full: make room and run again, training goes on from its newest checkpoint."
    elif "out of memory" in said.lower():
        advice = f"The GPU's memory did not suffice: {LESS_MEMORY}, lower training.max_tokens, or use more GPUs."
    elif code in (-signal.SIGKILL, 137) or "SIGKILL" in said or "Signals.SIGKILL" in said:
        advice = (
            f"A training process was killed (kill -9), most likely because the machine's memory ran out: {LESS_MEMORY}, "
            "or end other programs; run again, training goes on from its newest checkpoint."
        )
    elif "SIGTERM" in said:
        advice = "It was told to stop; run again, training goes on from its newest checkpoint."
    else:
        advice = "Its last lines are below."
    return TrainingError(f"Training ended with code {code}. {advice} Log: {log_path}\n{tail}")
