"""Runs a command so that none of its processes outlives the owner, even when the owner or the guard is killed (-9).

    python storyreason/guard.py -- vllm serve ...

The owner holds the other end of this process's standard input, a pipe that closes when the owner ends, however it ends.
The command runs in a process group of its own. When that pipe closes, on SIGTERM, and when the command ends by itself,
the whole group is ended: vLLM starts further processes, which stay in it. A folder for temporary files of the command's
own (`TMPDIR`) is removed then too, because vLLM leaves its sockets there.

The guard itself may be killed: a second process waits for that and ends the group, and the kernel ends the command when
both are killed at once; vLLM's further processes ask the kernel for the same (`end_with_parent`). Then the folder stays, until
the next guard starts and removes it.

Only the standard library is imported, so that the guard starts fast.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

GRACE = 5.0
"""Seconds that processes get to end by themselves: the command without its owner, the rest without the command."""
SCRATCH = ("storyreason-", "-g")
"""How the names of the folders for temporary files begin and end. Short: the path of a socket has at most 107 bytes."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GUARDED = "STORYREASON_GUARDED"
"""The environment variable of a guarded command and all that comes of it."""


def start(command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Start a guarded command; what it prints is appended to `log`. The caller is the owner: keep what this gives.

    SIGTERM to it, or closing its standard input, ends the command and all that came of it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            # Not `python -m`: this file needs nothing of ours, and -I -S spares it the search for packages.
            [sys.executable, "-I", "-S", __file__, "--", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )


def main() -> None:
    if os.getpid() != os.getpgrp():  # the owner's own group must not end with ours
        os.setsid()
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # processes whose parent ends become children of this one, which waits for them
    asked_to_end: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked_to_end.append(number))
    sweep()
    scratch = make_scratch()
    second = start_second_guard(scratch)
    command = subprocess.Popen(
        sys.argv[sys.argv.index("--") + 1 :],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": scratch, GUARDED: "1"},
        preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    signal.signal(signal.SIGTERM, lambda *_: command.terminate())
    if asked_to_end:  # before there was a command to end
        command.terminate()
    threading.Thread(target=follow_owner, args=(command, scratch), daemon=True).start()
    command.wait()
    os.kill(second, signal.SIGKILL)
    wait_for_the_others()
    end(scratch)


def make_scratch() -> str:
    """A new folder for temporary files, locked as long as this process or its second lives."""
    while True:
        made = tempfile.mkdtemp(SCRATCH[1], SCRATCH[0])
        lock = os.open(made, os.O_RDONLY)  # stays open
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if Path(made).is_dir():  # else another guard's sweep had it before it was locked
                return made
        os.close(lock)


def sweep() -> None:
    """Remove the folders of guards that were killed together with their second: nobody holds their locks."""
    for left in Path(tempfile.gettempdir()).glob("*".join(SCRATCH)):
        with contextlib.suppress(OSError):  # it is another user's, or in use
            lock = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)


def prctl(option: int, value: int) -> None:
    """Linux alone has it; elsewhere nothing happens."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(option, value)


def end_with_parent() -> None:
    """Have the kernel end this process with the one that started it, if that is a guarded command.

    vLLM calls this plugin in each of its processes. Its engine does not notice when the first one is killed (-9), and would
    hold its memory for ever.
    """
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None and GUARDED in os.environ:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:  # it ended before that
            os.kill(os.getpid(), signal.SIGKILL)


def start_second_guard(scratch: str) -> int:
    """Fork a process that ends the group when this one is killed. It must come before any thread or the command."""
    reader, writer = os.pipe()  # the command does not inherit the writer, so it closes with this process
    if second := os.fork():
        os.close(reader)
        return second
    os.close(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    os.close(sys.stdin.fileno())
    os.read(reader, 1)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    end(scratch)
    raise AssertionError("the group has ended, and this process with it")


def end(scratch: str) -> None:
    """Ends whatever the command left, and this process."""
    shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # 0 is the own group


def wait_for_the_others() -> None:
    """vLLM's first process ends before those it started have released their shared memory: let them."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            time.sleep(0.05)


def follow_owner(command: subprocess.Popen[bytes], scratch: str) -> None:
    sys.stdin.buffer.read()  # nobody ever writes: it returns when the owner's end of the pipe is closed
    command.terminate()
    time.sleep(2 * GRACE)
    end(scratch)


if __name__ == "__main__":
    main()
