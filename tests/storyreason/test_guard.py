"""No process outlives its owner: told with processes that start further processes, as vLLM does."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from storyreason import guard

pytestmark = pytest.mark.server

# A command that starts two more in its group, one of which ignores SIGTERM, and writes their numbers when they stand.
COMMAND = """
trap '' TERM
sleep 600 & first=$!
sh -c "trap '' TERM; while :; do sleep 600; done" & second=$!
trap 'exit 0' TERM
echo $$ $first $second > "$1.tmp"; mv "$1.tmp" "$1"
wait
"""
OWNER = """
import subprocess, sys, time
guarded = subprocess.Popen([sys.executable, *sys.argv[1:]], stdin=subprocess.PIPE)
time.sleep(600)
"""


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[list[str], Path]]:
    """The arguments of a guarded command, and the file that its processes' numbers will stand in."""
    numbers = tmp_path / "numbers"
    yield [str(guard.__file__), "--", "sh", "-c", COMMAND, "sh", str(numbers)], numbers
    if numbers.exists():
        for pid in map(int, numbers.read_text().split()):
            if running(pid):
                os.kill(pid, signal.SIGKILL)


def test_kill_9_of_the_owner_ends_the_command_and_all_it_started(guarded: tuple[list[str], Path]) -> None:
    arguments, numbers = guarded
    with subprocess.Popen([sys.executable, "-c", OWNER, *arguments]) as owner:
        wait_for(numbers.exists)
        processes = [int(number) for number in numbers.read_text().split()]
        assert all(map(running, processes))

        owner.kill()

    wait_for(lambda: not any(map(running, processes)))


def test_kill_9_of_the_guard_ends_the_command_and_all_it_started(guarded: tuple[list[str], Path]) -> None:
    arguments, numbers = guarded
    with subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE) as process:
        wait_for(numbers.exists)
        processes = [int(number) for number in numbers.read_text().split()]

        process.kill()

    wait_for(lambda: not any(map(running, processes)))


def test_kill_9_of_the_guard_and_its_second_ends_the_command(tmp_path: Path) -> None:
    number = tmp_path / "number"
    command = [
        "sh",
        "-c",
        'echo $$ > "$1.tmp"; mv "$1.tmp" "$1"; trap "" TERM; while :; do sleep 1; done',
        "sh",
        str(number),
    ]
    with subprocess.Popen([sys.executable, guard.__file__, "--", *command], stdin=subprocess.PIPE) as process:
        wait_for(number.exists)
        command_pid = int(number.read_text())
        seconds = [one for one in psutil.Process(process.pid).children() if one.pid != command_pid]

        for one in seconds:
            one.kill()
        process.kill()

    wait_for(lambda: not running(command_pid))


def test_sigterm_ends_the_command_and_all_it_started_but_not_the_owner(guarded: tuple[list[str], Path]) -> None:
    arguments, numbers = guarded
    with subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE) as process:
        wait_for(numbers.exists)
        processes = [int(number) for number in numbers.read_text().split()]

        process.terminate()
        process.wait()

    wait_for(lambda: not any(map(running, processes)))


def test_a_command_that_ends_takes_the_rest_along(tmp_path: Path) -> None:
    number = tmp_path / "number"
    command = ["sh", "-c", 'sleep 600 & echo $! > "$1"', "sh", str(number)]
    with subprocess.Popen([sys.executable, guard.__file__, "--", *command], stdin=subprocess.PIPE) as process:
        process.wait()

    left = int(number.read_text())
    wait_for(lambda: not running(left))


def test_what_a_command_leaves_among_temporary_files_goes_with_it(tmp_path: Path) -> None:
    said = tmp_path / "said"
    command = ["sh", "-c", 'touch "$TMPDIR/socket"; echo "$TMPDIR" > "$1"', "sh", str(said)]
    with subprocess.Popen(
        [sys.executable, guard.__file__, "--", *command],
        stdin=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        process.wait()

    scratch = Path(said.read_text().strip())
    assert scratch.parent == tmp_path
    assert not scratch.exists()


FURTHER = """
import multiprocessing, os, sys, time
from storyreason import guard
def further(place):
    guard.end_with_parent()
    with open(place + ".tmp", "w") as file:
        file.write(str(os.getpid()))
    os.rename(place + ".tmp", place)
    time.sleep(600)
if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=further, args=sys.argv[1:]).start()
    time.sleep(600)
"""


def test_what_the_command_started_ends_when_both_guards_are_killed_with_it(tmp_path: Path) -> None:
    """As vLLM's engine, which loads `end_with_parent` as a plugin."""
    (tmp_path / "engine.py").write_text(FURTHER)
    number = tmp_path / "number"
    command = [sys.executable, guard.__file__, "--", sys.executable, str(tmp_path / "engine.py"), str(number)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        wait_for(number.exists)
        further = int(number.read_text())
        process.send_signal(signal.SIGSTOP)
        for one in psutil.Process(process.pid).children():
            one.kill()
        process.kill()

    wait_for(lambda: not running(further), 10)
    assert "storyreason.guard:end_with_parent" in {one.value for one in entry_points(group="vllm.general_plugins")}


def test_a_process_that_no_guard_has_started_outlives_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(guard, "prctl", lambda option, value: asked.append(option))
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(pid=os.getppid()))
    monkeypatch.delenv(guard.GUARDED, raising=False)
    guard.end_with_parent()
    assert asked == []
    monkeypatch.setenv(guard.GUARDED, "1")
    guard.end_with_parent()
    assert asked == [guard.PR_SET_PDEATHSIG]


def test_temporary_files_of_a_guard_that_was_killed_with_its_second_go_at_the_next_start(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    script = 'touch "$TMPDIR/socket"; echo "$TMPDIR" > "$1.tmp"; mv "$1.tmp" "$1"; while :; do sleep 1; done'

    def start(number: int) -> "tuple[subprocess.Popen[bytes], Path]":
        said = tmp_path / f"said-{number}"
        command = [sys.executable, guard.__file__, "--", "sh", "-c", script, "sh", str(said)]
        started = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        wait_for(said.exists)
        return started, Path(said.read_text().strip())

    first, left = start(1)
    first.send_signal(signal.SIGSTOP)  # else it might see that its command ended, and tidy up
    for one in psutil.Process(first.pid).children():
        one.kill()
    first.kill()
    first.communicate()
    assert (left / "socket").exists()

    second, kept = start(2)
    third, _ = start(3)

    assert not left.exists()
    assert (kept / "socket").exists()  # the second lives
    for process in (second, third):
        process.terminate()
        process.communicate()
    wait_for(lambda: not list(tmp_path.glob("*".join(guard.SCRATCH))))
