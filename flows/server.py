"""Prefect's server, as its own command starts it, without a deadlock of its own:

python -m flows.server prefect server start --host 127.0.0.1 --port 4200
"""

import sys

from tasks import compat

if __name__ == "__main__":
    from prefect.cli import app

    compat.let_automations_change()
    del sys.argv[0]
    app()
