"""A training notices that it shall stop, however early that is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storyreason.training import watch

SLOW_TORCH = """
import time
print("importing torch", flush=True)
time.sleep(600)
"""


@pytest.mark.server
def test_a_training_whose_follower_was_killed_ends_while_it_still_imports(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(SLOW_TORCH)
    follower = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    environment = {**os.environ, "PYTHONPATH": path, watch.PARENT: watch.process_token(follower.pid)}
    command = [sys.executable, "-m", "storyreason.training", str(tmp_path / "job.json")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as training:
        try:
            assert training.stdout is not None
            assert training.stdout.readline() == "importing torch\n"

            follower.kill()
            follower.wait()

            assert training.wait(timeout=60) == 143
        finally:
            training.kill()
