"""`storyreason up` and `down`: the processes of deploy/Procfile under a supervisor that outlives the command.

`python -m flows.up`, which `make ui` runs, starts only those that show runs, and stops them when it is interrupted.

A guard ends each process and its children when the supervisor ends, even by kill -9. Their state is in `runs/`, so that
the next `up` resumes it.
"""

import configparser
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flows import changes, schedules
from storyreason import config, guard, home, runs
from storyreason.errors import GatewayError, RunError, StoryReasonError, without_password
from storyreason.serving import client as gateway
from storyreason.serving import state
from tasks import settings, upgrading, views
from tasks.settings import Settings

if TYPE_CHECKING:
    import psutil

PROCFILE = Path(__file__).resolve().parents[1] / "deploy" / "Procfile"
MARK = "STORYREASON_UP"
"""The environment variable that marks every process started by `up`, directly or not; its value is the state folder."""
VIEWERS = ("prefect", "mlflow")
"""The parts that show runs."""
STARTUP = 900.0
"""Seconds until all must answer: 30 on an idle machine, far more on a busy one."""
END = 60.0
"""Seconds that a process may take to end."""


def folder() -> Path:
    """The folder of the supervisor's state and of all logs."""
    path = runs.root() / "up"
    path.mkdir(exist_ok=True)
    return path


def ready_file() -> Path:
    """Exists once the process that serves the Prefect deployments has registered them."""
    return folder() / "deployments.ready"


def running() -> int | None:
    """The supervisor's process ID, or None when `up` is not running in this checkout."""
    import psutil

    try:
        pid = int((folder() / "supervisord.pid").read_text())
        return pid if str(_configuration()) in psutil.Process(pid).cmdline() else None
    except (FileNotFoundError, ValueError, psutil.Error):
        return None


def up(say: Callable[[str], None], restart: bool = False) -> None:
    """Start what is not running yet, wait until all answer, and say where; `restart` stops everything first.

    Raises ConfigError for a schedule that Prefect does not take, and RunError, which names what did not start, or the
    settings that changed since everything was started.
    """
    settings.prepare()
    chosen = settings.read()
    schedules.check(chosen)
    if restart and down():
        say("everything that was running is stopped")
    with runs.lock(folder()):
        if running() is None:
            _end_leftovers()
            _start(chosen, say, programs())
        elif _shows_runs_only():
            raise RunError(
                "`make ui` is running in this checkout: end it with Ctrl-C, then run `storyreason up` again."
            )
        elif changed := changed_settings(chosen):
            raise RunError(changes.sentence(changed))
        _wait(chosen, say, programs())
    _say_where(chosen, say)
    say(f"gateway     {chosen.gateway_url} (the web page), {chosen.gateway_url}/v1 (OpenAI's API)")
    say(f"logs        {folder()}; stop all with: storyreason down")


def show_runs(say: Callable[[str], None]) -> None:
    """Serve only Prefect's and MLflow's pages, until Ctrl-C. If `up` is running, only say where it serves them.

    Raises RunError, which names what did not start.
    """
    settings.prepare()
    chosen = settings.read()
    if running() is not None:
        _say_where(chosen, say)
        return
    for end in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs begin with Ctrl-C ignored
        signal.signal(end, signal.default_int_handler)
    try:
        with runs.lock(folder()):
            _end_leftovers()
            _start(chosen, say, VIEWERS)
            _wait(chosen, say, VIEWERS)
        _say_where(chosen, say)
        say("until Ctrl-C")
        while running() is not None:
            time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    finally:
        down()


def _say_where(chosen: Settings, say: Callable[[str], None]) -> None:
    known = elsewhere(chosen)
    say(without_password(f"Prefect     {known.get('prefect', chosen.prefect_url)}"))
    say(without_password(f"MLflow      {views.first_page(known.get('mlflow', chosen.mlflow_url))}"))


def down() -> bool:
    """End everything that `up` started; False when nothing was running. Interrupted flow runs resume with the next `up`."""
    import psutil

    pid = running()
    if pid is not None:
        supervisor = psutil.Process(pid)
        supervisor.terminate()
        try:
            supervisor.wait(2 * END)
        except psutil.TimeoutExpired:
            supervisor.kill()
    ended = _end_leftovers()
    ready_file().unlink(missing_ok=True)
    return pid is not None or ended


def _start(chosen: Settings, say: Callable[[str], None], parts: Iterable[str]) -> None:
    started = {name: line for name, line in programs().items() if name in parts and name not in elsewhere(chosen)}
    if "gateway" in started and _gateway_answers(chosen):
        say("the gateway is already running and stays as it is")
        del started["gateway"]
    ports = {"prefect": chosen.prefect_port, "mlflow": chosen.mlflow_port, "gateway": chosen.gateway_port}
    for name in started.keys() & ports.keys():
        _check_free(name, ports[name])
    if parts != VIEWERS:
        with runs.lock(Path(os.environ["PREFECT_HOME"]), wait=0):  # of a flow with its own server, on the same database
            pass
    upgrading.migrate(say)
    ready_file().unlink(missing_ok=True)
    runs.write_text(_configuration(), _supervisor(started))
    changes.remember(folder(), chosen)
    store, artifacts = os.environ["MLFLOW_TRACKING_URI"], (runs.root() / "mlflow" / "artifacts").as_uri()
    environment = {
        **os.environ,
        **chosen.environment(),
        MARK: str(folder()),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "STORYREASON_RUNS": str(runs.root()),
        "STORYREASON_MLFLOW_STORE": chosen.mlflow_store or store,
        "MLFLOW_BACKEND_STORE_URI": chosen.mlflow_store or store,
        "STORYREASON_MLFLOW_ARTIFACTS": chosen.mlflow_artifacts or artifacts,
    }
    environment.setdefault("PREFECT_API_URL", f"{chosen.prefect_url}/api")
    command = [sys.executable, "-m", "flows.supervising", "-c", str(_configuration())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"The supervisor did not start: {' '.join((done.stdout + done.stderr).split())}")
    deadline = time.monotonic() + END
    while running() is None and time.monotonic() < deadline:  # it writes its process ID once it is a daemon
        time.sleep(0.02)


def changed_settings(chosen: Settings) -> list[str]:
    """The settings that differ from those that `up` was started with, while it runs."""
    return changes.since(folder(), chosen) if running() is not None else []


def _configuration() -> Path:
    return folder() / "supervisord.conf"


def programs() -> dict[str, str]:
    """The lines of the Procfile: each process's name and shell command."""
    lines = (line.partition(":") for line in PROCFILE.read_text().splitlines() if line and not line.startswith("#"))
    return {name.strip(): command.strip() for name, _, command in lines}


def _shows_runs_only() -> bool:
    """Whether the supervisor was started by `make ui`."""
    return "deployments" in programs() and "[program:deployments]" not in _configuration().read_text()


def elsewhere(chosen: Settings) -> dict[str, str]:
    """The addresses of servers that this checkout uses but does not start."""
    prefect, mlflow = os.environ.get("PREFECT_API_URL", ""), os.environ["MLFLOW_TRACKING_URI"]
    found = {"prefect": prefect} if prefect not in ("", f"{chosen.prefect_url}/api") else {}
    return found | ({"mlflow": mlflow} if mlflow.startswith("http") else {})


def is_used(name: str, chosen: Settings) -> bool:
    """Whether this checkout uses the server at its address: if it does not run one, somebody else's may answer there."""
    told = name == "prefect" and os.environ.get("PREFECT_API_URL")
    return bool(told) or name in elsewhere(chosen) or running() is not None


def _supervisor(started: dict[str, str]) -> str:
    """The configuration of supervisord: the programs, which it restarts whenever they end."""
    import io

    written = configparser.RawConfigParser()
    written["supervisord"] = {
        "logfile": str(folder() / "supervisord.log"),
        "pidfile": str(folder() / "supervisord.pid"),
        "childlogdir": str(folder()),
        "directory": str(home.folder()),
    }
    for name, command in started.items():
        guarded = [sys.executable, "-I", "-S", guard.__file__, "--", "/bin/sh", "-c", f"exec {command}"]
        written[f"program:{name}"] = {
            "command": shlex.join(guarded),
            "stdout_logfile": str(folder() / f"{name}.log"),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": "2",
            "redirect_stderr": "true",
            "autorestart": "true",
            "startretries": "1000",
            "killasgroup": "true",
            "stopwaitsecs": str(int(END)),
        }
    for section in written.sections():
        for key, value in written[section].items():
            written[section][key] = value.replace("%", "%%")  # supervisord expands %(...)s
    text = io.StringIO()
    written.write(text)
    return text.getvalue()


def _gateway_answers(chosen: Settings) -> bool:
    """Whether the gateway is running where it should. Raises RunError if it is running on another port: two would not start."""
    serving = config.load(chosen.preset, [f"serving.port={chosen.gateway_port}"]).serving
    at = state.address(serving.gateway)
    if at is not None and at.port != serving.port and gateway.is_running(serving.gateway):
        raise RunError(
            f"The gateway of this checkout is running on port {at.port}, not on {serving.port} (STORYREASON_GATEWAY_PORT): "
            f"stop it with `storyreason down`, or set that to {at.port} in .env."
        )
    try:
        gateway.status(serving)
    except GatewayError:
        return False
    return True


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _check_free(name: str, port: int) -> None:
    if not is_free(port):
        raise RunError(
            f"Port {port} of {name} is in use: end the process that uses it, or set "
            f"STORYREASON_{name.upper()}_PORT to another port in .env."
        )


def _wait(chosen: Settings, say: Callable[[str], None], parts: Iterable[str]) -> None:
    """Wait until each of these parts answers, in the order of the Procfile."""
    conditions: dict[str, Callable[[], bool]] = {
        "prefect": lambda: settings.answers(f"{chosen.prefect_url}/api/health"),
        "mlflow": lambda: settings.answers(f"{chosen.mlflow_url}/health"),
        "gateway": lambda: settings.answers(f"{chosen.gateway_url}/healthz"),
        "deployments": ready_file().exists,
    }
    deadline = time.monotonic() + STARTUP
    for name, condition in conditions.items():
        if name in elsewhere(chosen) or name not in parts:
            continue
        while not condition():
            log = folder() / f"{name}.log"
            if running() is None:
                raise RunError(f"The supervisor has ended: its last output is in {folder() / 'supervisord.log'}.")
            if time.monotonic() > deadline:
                raise RunError(
                    f"{name} did not answer within {STARTUP:.0f} s: its last output is in {log}. "
                    "Stop the others with `storyreason down`."
                )
            time.sleep(0.2)
        say(f"{name} answers")


def _end_leftovers() -> bool:
    """Wait for the processes that `up` started, and kill those that do not end; gives whether there were any.

    They end by themselves after the supervisor: servers at once, a training once it has written a checkpoint.
    """
    import psutil

    left = _marked()
    found = bool(left)
    deadline = time.monotonic() + END
    while left and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.2)
        left = _marked()
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)
    return found


def _marked() -> "list[psutil.Process]":
    import psutil

    mine, found = str(folder()), []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != os.getpid()]


if __name__ == "__main__":
    try:
        show_runs(partial(print, flush=True))  # at once, also into a pipe
    except StoryReasonError as error:
        sys.exit(f"storyreason: {error}")
