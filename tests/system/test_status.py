"""`storyreason status` beside a Prefect server that `up` started."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.system.conftest import STORYREASON

pytestmark = pytest.mark.server


def test_the_verb_asks_the_server_of_the_checkout(prefect_server: dict[str, str], tmp_path: Path) -> None:
    """Prefect reads where its server is when it is imported; without that it starts one of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    kept["STORYREASON_PREFECT_PORT"] = prefect_server["PREFECT_API_URL"].rpartition(":")[2].removesuffix("/api")
    kept["STORYREASON_RUNS"] = str(tmp_path)

    done = subprocess.run([STORYREASON, "status", "--json"], env=kept, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found["active"], list) and isinstance(found["approvals"], list)
    assert "temporary server" not in done.stdout + done.stderr
