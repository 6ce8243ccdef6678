"""An update of Prefect, MLflow or DVC that moves a name which this project depends on fails here."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from storyreason.compat import Borrowed, fault
from tasks import compat


@pytest.mark.parametrize("one", compat.BORROWED, ids=lambda one: f"{one.package} {one.name}")
def test_a_borrowed_name_is_as_it_was_checked(one: Borrowed) -> None:
    assert fault(one) is None
    assert fault(replace(one, version="0")) is None


CHANGE = """
import asyncio, sys
from prefect.server.database import provide_database_interface
from prefect.server.events import triggers
from prefect.server.events.models import automations
from prefect.server.events.schemas.automations import Automation
from tasks import compat

if sys.argv[1] == "patched":
    compat.let_automations_change()

async def main():
    db = provide_database_interface()
    await db.create_db()
    when = {"type": "event", "posture": "Reactive", "threshold": 1, "within": 0, "expect": ["told"]}
    async with triggers._automations_lock():  # as the service does that evaluates triggers
        async with db.session_context(begin_transaction=True) as session:
            one = Automation.model_validate({"name": "one", "trigger": when, "actions": [{"type": "do-nothing"}]})
            await automations.create_automation(session, one)
    while not triggers.automations_by_id:
        await asyncio.sleep(0.05)
    print("changed", flush=True)

asyncio.run(main())
"""


@pytest.mark.server
def test_an_automation_is_changed_while_another_task_of_the_server_holds_the_lock(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/prefect.db"
    environment = os.environ | {"PREFECT_HOME": str(tmp_path), "PREFECT_API_DATABASE_CONNECTION_URL": url}
    command = [sys.executable, "-c", CHANGE, "patched"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "changed\n", done.stderr[-2000:]
