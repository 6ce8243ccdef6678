"""What is set before Prefect is imported, which reads its settings then."""

import os
import subprocess
import sys

import pytest

from storyreason.errors import ConfigError
from tasks import settings

PREPARED = """
import sys
from flows import local
from tasks import settings

local.prepare()
settings.read()
print("prefect" in sys.modules)
"""


def test_preparing_imports_no_prefect() -> None:
    """Else the address of the server of `up` comes too late, and Prefect starts one more on the same database."""
    done = subprocess.run([sys.executable, "-c", PREPARED], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout == "False\n", done.stderr


def test_a_cron_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_CRON", "every monday")
    with pytest.raises(ConfigError, match="wanted five fields of a cron, such as 0 4"):
        settings.read()
