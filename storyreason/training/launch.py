"""Start the training process, follow it, and never leave it behind."""

import json
import logging
import os
import shlex
import shutil
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
from storyreason.training.machine import Machine

log = logging.getLogger(__name__)

ERROR_MARK = "storyreason error: "
"""The training process writes this before an error that the user can fix."""
LOG = "log.txt"
ADDRESS = "STORYREASON_MAIN_ADDRESS"
"""Environment: `address:port` of the first of several machines, where they meet."""
PATIENCE = 15.0
"""Seconds between SIGTERM and SIGKILL: time for a checkpoint."""
LESS_MEMORY = (
    "lower training.pack_tokens, or lower training.batch_size and raise training.accumulation by the same factor"
)
"""Without the latter a step would take fewer stories, and its checkpoints would be refused."""

ON_GPUS = {
    # cuDNN's attention, which torch chooses on an H100, builds a kernel for each length of a sequence, 190 ms forward and
    # backward, and stories have their own lengths. So it builds one for all; a call takes a fifth more time.
    "TORCH_CUDNN_SDPA_AVOID_RECOMPILE": "1",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # rows have their own lengths: less memory is lost between blocks
}
"""Environment of a training, unless it is set already."""

OnProgress = Callable[[dict[str, Any]], None]


def run(job: Job, on_progress: OnProgress, *, after_step: int = 0, env: Mapping[str, str] | None = None) -> Path:
    """Train to the end in a separate process, and return the path of the result (whole weights, or an adapter).

    `on_progress` gets every line of `progress.jsonl` once: those of earlier attempts first, `step` lines only after
    `after_step`. An interrupted training resumes from its newest checkpoint. Whatever ends this call early, a cancelled
    flow included, ends the training too: SIGTERM, 15 s for a checkpoint, SIGKILL.

    `env` is added to this process' environment. Raises TrainingError, or the error that the training process raised.
    """
    given = {**os.environ, **(env or {})}
    machine = Machine.of(job.training)
    command = _command(machine, given)
    attempt = uuid.uuid4().hex
    job_file = jobs.write(job)
    environment = {
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // machine.local_processes)),
        **ON_GPUS,
        **given,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # this storyreason, not one in the current directory
        **machine.visible_devices(),
        "STORYREASON_ATTEMPT": attempt,
        watch.PARENT: watch.process_token(os.getpid()),
    }
    if instructions := others(command, job_file):
        log.warning("%s", instructions)
    log_path, scratch = job.work / LOG, job.work / ".launcher"
    # Otherwise a launcher leaves a folder in /tmp each time.
    temporary = ["--log_dir", str(scratch)] if len(command) > 1 else []
    with log_path.open("a+b") as log_file:
        log_start = log_file.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [*command, *temporary, "-m", "storyreason.training", str(job_file)],
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
            shutil.rmtree(scratch, ignore_errors=True)
    if process.returncode != 0:
        raise _explained(process.returncode, log_path, log_start, job)
    return job.work / "result"


def others(command: Sequence[str], job_file: Path) -> str:
    """What to type on the other machines of a training; empty when there is only this one."""
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
    return f"This training waits for its other machines. On machine N = 1, 2, … type  {shlex.join(words)}"


def check_machine(training: TrainingConfig) -> None:
    """Raises TrainingError or ConfigError when this machine cannot train with these settings. Cheap."""
    _command(Machine.of(training), os.environ)


def _command(machine: Machine, environment: Mapping[str, str]) -> list[str]:
    """The command that starts the processes. Raises TrainingError or ConfigError before anything runs."""
    machine.check()
    if machine.file is None and machine.processes == 1:
        return [sys.executable]  # a launcher would import torch, 4 s, to start one process
    if machine.file is None:
        return [
            *[sys.executable, "-m", "torch.distributed.run", "--standalone"],
            *["--nproc-per-node", str(machine.processes)],
        ]
    if machine.machines > 1:
        meet = _meeting(machine, environment)
    else:  # Port 0: accelerate picks a free one, so two trainings do not collide.
        meet = ["--main_process_port", "0"] if machine.fsdp is not None else []
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(machine.file), *meet]


def _meeting(machine: Machine, environment: Mapping[str, str]) -> list[str]:
    """Options that say where the machines of a training meet; this one is the first."""
    host, _, port = environment.get(ADDRESS, "").rpartition(":")
    if not host and not port and machine.meeting:
        host, port = machine.meeting
    if not host or not port.isdecimal():
        assert machine.file is not None
        raise ConfigError(
            f"training.accelerate = {machine.file.stem} trains on {machine.machines} machines: set {ADDRESS} to the "
            "address of this one and a free port, such as 10.0.0.1:29500."
        )
    return ["--machine_rank", "0", "--main_process_ip", host, "--main_process_port", port]


def _follow(work: Path, attempt: str, after_step: int, process: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
    """The lines of the progress file, once the attempt's own `start` line is in it."""
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
    """End the process and everything it started. torchrun puts its children into sessions of their own, so they are
    looked up first."""
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
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            _quietly(lambda: os.killpg(process.pid, signal.SIGKILL))
    process.wait()


def _quietly(action: Callable[[], Any]) -> None:
    """Act on a process that may have ended already."""
    import psutil

    try:
        action()
    except (ProcessLookupError, psutil.NoSuchProcess):
        return


def _explained(code: int, log_path: Path, start: int, job: Job) -> errors.StoryReasonError:
    """The error that a training process ended with: its own, a known cause, or the last lines of its log."""
    with log_path.open("rb") as file:
        file.seek(start)
        output = file.read().decode(errors="replace")
    # When one process is killed, another may report that it could not continue: torchrun knows which came first.
    killed = "Signal 9 (SIGKILL) received" in output.partition("Root Cause")[2]
    for line in () if killed else output.splitlines():
        if line.startswith(ERROR_MARK):
            reported = json.loads(line.removeprefix(ERROR_MARK))
            kind: type[errors.StoryReasonError] = getattr(errors, reported["error"], TrainingError)
            return kind(reported["message"])
    tail = "\n".join(output.splitlines()[-15:])
    if "No space left on device" in output:
        advice = "The disk is full: make room and run again. Training resumes from its newest checkpoint."
    elif "out of memory" in output.lower():
        advice = (
            f"The GPU ran out of memory: {LESS_MEMORY}, lower training.max_tokens, or use more GPUs. {_planned(job)}"
        )
    elif code in (-signal.SIGKILL, 137) or "SIGKILL" in output or "Signals.SIGKILL" in output:
        advice = (
            f"A training process was killed (kill -9), most likely because the machine ran out of memory: {LESS_MEMORY}, "
            f"or end other programs, and run again. Training resumes from its newest checkpoint. {_planned(job)}"
        )
    elif code == -signal.SIGTERM or "SIGTERM" in output:
        advice = "It was asked to stop. Run again: training resumes from its newest checkpoint."
    else:
        advice = "Its last lines are below."
    return TrainingError(f"Training ended with code {code}. {advice} Log: {log_path}\n{tail}")


def _planned(job: Job) -> str:
    """What the training should take, and what would fit; nothing where that cannot be told."""
    from storyreason.training import choosing

    try:
        return choosing.advice(job.base, job.revision, job.training, job.improve)
    except Exception as error:  # transformers and torch each raise their own; the training's own end matters more
        log.info("No estimate of the memory: %s", error)
        return ""
