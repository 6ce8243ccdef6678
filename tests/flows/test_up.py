"""The supervisor of `storyreason up`, with trivial parts: killed parts are restarted, and nothing is left behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows import up
from storyreason import runs
from storyreason.errors import RunError
from storyreason.serving import state
from tasks import settings
from tests.system.conftest import free_port, wait_for

pytestmark = pytest.mark.server
# A part that starts a further process, as servers do, writes down both, and ends it when it is asked to end.
PROCFILE = """# two parts
one: sh -c 'trap "kill \\$!; exit" TERM; sleep 1000 & echo $$ > "$STORYREASON_RUNS/one.$$"; wait'
two: sh -c 'echo 100% of $STORYREASON_PRESET; exec sleep 1000'
"""
CARELESS = PROCFILE.replace('trap "kill \\$!; exit" TERM; ', "")
"""The same, but the further process outlives the part: the guard ends it, after its grace."""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout whose Procfile has two parts that sleep."""
    (tmp_path / "Procfile").write_text(PROCFILE)
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "MLFLOW_", "STORYREASON_")):
            monkeypatch.delenv(name)
    before = dict(os.environ)
    monkeypatch.setattr(up, "PROCFILE", tmp_path / "Procfile")
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    for part in ("PREFECT", "MLFLOW", "GATEWAY"):
        monkeypatch.setenv(f"STORYREASON_{part}_PORT", str(free_port()))
    yield tmp_path / "runs"
    up.down()
    for name in os.environ.keys() - before.keys():
        monkeypatch.delenv(name, raising=False)


def commands(checkout: Path) -> list[str]:
    """The command lines of this checkout's processes, found by their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(up.MARK) == str(checkout / "up") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return sorted(found)


def sleepers(checkout: Path) -> int:
    return sum(command == "sleep 1000" for command in commands(checkout))


def said() -> list[str]:
    lines: list[str] = []
    up.up(lines.append)
    return lines


def test_up_twice_starts_once_and_down_leaves_nothing(checkout: Path) -> None:
    up.PROCFILE.write_text(CARELESS)
    lines = said()
    first = up.running()
    wait_for(lambda: sleepers(checkout) == 2, "both parts", 60)
    before = commands(checkout)

    assert said() == lines
    assert up.running() == first
    assert commands(checkout) == before
    wait_for(lambda: "100% of sample" in (checkout / "up/two.log").read_text(), "the part's words in its log", 60)

    assert up.down()
    assert up.running() is None
    assert commands(checkout) == []
    assert not up.down()


def test_changed_settings_are_told_and_applied_by_a_restart(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said()
    assert up.changed_settings(settings.read()) == []
    monkeypatch.setenv("STORYREASON_PRESET", "smoke")
    monkeypatch.setenv("STORYREASON_CRON", "0 5 * * *")

    with pytest.raises(RunError, match=r"STORYREASON_CRON, STORYREASON_PRESET changed .* `storyreason up --restart`"):
        said()
    up.up(lambda _: None, restart=True)

    wait_for(lambda: "100% of smoke" in (checkout / "up/two.log").read_text(), "the new setting", 60)
    assert up.changed_settings(settings.read()) == []
    assert up.down()
    monkeypatch.setenv("STORYREASON_CRON", "0 6 * * *")
    assert up.changed_settings(settings.read()) == []  # nothing runs that could lack it


def test_no_secret_is_kept_with_the_settings(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_NOTIFY", "json://user:S3CRET@host")
    said()
    assert not any("S3CRET" in path.read_text() for path in (checkout / "up").glob("*.json"))


def test_a_killed_part_is_restarted(checkout: Path) -> None:
    said()
    wait_for(lambda: list(checkout.glob("one.*")), "the first part", 60)
    (first,) = checkout.glob("one.*")

    os.kill(int(first.suffix[1:]), signal.SIGKILL)

    wait_for(lambda: len(list(checkout.glob("one.*"))) == 2, "the part to be started again", 60)
    wait_for(lambda: sleepers(checkout) == 2, "what the killed part left to end", 60)


def test_after_kill_9_of_the_supervisor_nothing_is_left_and_up_starts_again(checkout: Path) -> None:
    said()
    wait_for(lambda: sleepers(checkout) == 2, "both parts", 60)
    first = up.running()
    assert first is not None

    os.kill(first, signal.SIGKILL)
    wait_for(lambda: commands(checkout) == [], "all parts to end by themselves", 60)
    assert up.running() is None
    said()

    wait_for(lambda: sleepers(checkout) == 2, "both parts again", 60)
    assert up.running() not in (None, first)


def test_another_checkout_is_left_alone(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said()
    wait_for(lambda: sleepers(checkout) == 2, "both parts", 60)
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "other"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "other" / "prefect"))

    said()
    wait_for(lambda: sleepers(tmp_path / "other") == 2, "both parts of the other", 60)
    assert up.down()

    assert commands(tmp_path / "other") == []
    assert sleepers(checkout) == 2
    monkeypatch.setenv("STORYREASON_RUNS", str(checkout))


def test_a_port_that_is_taken_is_named(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    up.PROCFILE.write_text("mlflow: sleep 1000\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("STORYREASON_MLFLOW_PORT", str(taken.getsockname()[1]))
        with pytest.raises(RunError, match="STORYREASON_MLFLOW_PORT"):
            said()
    assert up.running() is None


def test_up_is_refused_while_a_flow_has_its_own_server(checkout: Path) -> None:
    settings.prepare()
    with runs.lock(Path(os.environ["PREFECT_HOME"])), pytest.raises(RunError, match="wait for it to end"):
        said()
    assert up.running() is None


SERVERS = """prefect: python -m http.server $STORYREASON_PREFECT_PORT --bind 127.0.0.1
mlflow: python -m http.server $STORYREASON_MLFLOW_PORT --bind 127.0.0.1
deployments: sleep 1000
"""
SHOW = "import pathlib, sys; from flows import up; up.PROCFILE = pathlib.Path(sys.argv[1]); up.show_runs(print)"


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_make_ui_serves_the_pages_on_the_ports_of_dotenv_until_it_is_ended(checkout: Path, end: signal.Signals) -> None:
    up.PROCFILE.write_text(SERVERS)
    ports = {part: os.environ.pop(f"STORYREASON_{part}_PORT") for part in ("PREFECT", "MLFLOW")}
    (checkout.parent / ".env").write_text("".join(f"STORYREASON_{part}_PORT={port}\n" for part, port in ports.items()))
    with runs.lock(checkout / "prefect"):  # also while a flow has a server of its own
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", SHOW, str(up.PROCFILE)], cwd=checkout.parent, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(5)]

    assert lines[2:4] == [
        ["Prefect", f"http://127.0.0.1:{ports['PREFECT']}"],
        ["MLflow", f"http://127.0.0.1:{ports['MLFLOW']}/?workflowType=machine_learning"],
    ]
    assert lines[4] == ["until", "Ctrl-C"]
    assert sleepers(checkout) == 0
    with pytest.raises(RunError, match="`make ui` is running in this checkout: end it with Ctrl-C"):
        said()
    process.send_signal(end)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert commands(checkout) == []


def test_a_gateway_of_the_checkout_that_runs_on_another_port_is_named(checkout: Path, tmp_path: Path) -> None:
    """As after `make retrain` and a change of the port in `.env`: a second gateway would be started again and again."""
    (tmp_path / "Procfile").write_text("gateway: sleep 1000\n")
    other = free_port()
    state.write_address(state.Address(os.getpid(), "127.0.0.1", other))

    with (
        runs.lock(state.folder()),
        pytest.raises(
            RunError, match=rf"is running on port {other}, not on \d+ .*storyreason down.* set that to {other}"
        ),
    ):
        up.up(print)

    assert commands(checkout) == []
