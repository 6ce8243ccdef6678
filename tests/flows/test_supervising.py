"""A part of `storyreason up` that is asked to end while supervisord starts it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.conftest import wait_for

pytestmark = pytest.mark.server
# A part that stays between fork and exec, where supervisord sets its process group, for as long as it lives.
CODE = """
import os, runpy, sys, time
from supervisor.options import ServerOptions

def stay(_):
    open("started", "w").close()
    supervisor = os.getppid()
    while os.getppid() == supervisor:
        time.sleep(1)

ServerOptions.setpgrp = stay
runpy.run_module("flows.supervising", run_name="__main__", alter_sys=True)
"""
CONFIGURATION = """
[supervisord]
nodaemon = true
logfile = log
[program:part]
command = sleep 1000
stopwaitsecs = 20
"""


def test_sigterm_ends_a_part_that_is_not_executed_yet(tmp_path: Path) -> None:
    (tmp_path / "supervisord.conf").write_text(CONFIGURATION)
    checkout = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", CODE, "-c", "supervisord.conf"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": checkout},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as supervising:
        try:
            wait_for((tmp_path / "started").exists, "the part", 60)
            supervising.send_signal(signal.SIGTERM)
            supervising.wait(60)
        finally:
            supervising.kill()

    assert "stopped: part (terminated by SIGTERM)" in (tmp_path / "log").read_text()
