"""`make ui`: MLflow's and Prefect's servers over what the flows of this checkout have left in `runs/`."""

import os
import subprocess
import sys

from storyreason import runs
from tasks import settings


def main() -> None:
    """Serve both until Ctrl-C. Loopback only."""
    settings.prepare()
    python = [sys.executable, "-m"]
    store = ["--backend-store-uri", os.environ["MLFLOW_TRACKING_URI"]]
    artifacts = ["--default-artifact-root", (runs.root() / "mlflow" / "artifacts").as_uri()]
    commands = [
        [*python, "mlflow", "server", "--host", "127.0.0.1", "--port", "5000", *store, *artifacts],
        [*python, "prefect", "server", "start", "--host", "127.0.0.1", "--port", "4200"],
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    servers = [subprocess.Popen(command, env=environment) for command in commands]
    try:
        for server in servers:
            server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()


if __name__ == "__main__":
    main()
