"""A checkout that was moved or copied goes on where it is: what its runs say about their old place is changed, once."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from storyreason import home, runs
from storyreason.errors import RunError
from tasks.results import TRAINING

FORGOTTEN = ("address.json", "token", "resting.json")
"""What a gateway's folder holds of a process: a copy must not talk to the original's."""
NAMING_FILES = (
    f"**/{runs.MANIFEST}",
    *(f"{step}/*/{file}" for step in TRAINING for file in ("job.json", "*/identity.json")),
    "gateway*/state.json",
)
"""The JSON files in `runs/` that name files or folders."""


def settle(say: Callable[[str], None]) -> None:
    """Make the runs of this checkout name their files where they are now. Does nothing if they never moved.

    Killed in between, it is done again from the start. Raises RunError while processes still use the folder.
    """
    moved = runs.moved()
    if moved is None:
        return
    old, new = moved
    with ExitStack() as alone:
        for used in [new / "prefect", *new.glob("gateway*")]:
            if used.is_dir():
                alone.enter_context(_unused(used, old))
        say(
            f"{new} {'is a copy of' if old.exists() else 'was moved from'} {old}: what it says about its place is changed"
        )
        if new.parent == home.folder():
            move(new, old.parent, new.parent)  # the base model and the data may lie beside the runs
        else:
            move(new, old, new)
        for gateway in new.glob("gateway*"):
            for name in FORGOTTEN:
                (gateway / name).unlink(missing_ok=True)
        runs.write_text(new / runs.PLACE, f"{new}\n")


def _unused(folder: Path, old: Path) -> Any:
    """The lock of a folder that a running process would hold."""
    try:
        held = ExitStack()
        held.enter_context(runs.lock(folder, wait=0))
        return held
    except RunError as error:
        raise RunError(
            f"{folder.parent} was {old} before, and a process that started there still runs ({error}): end it, then start "
            "this again."
        ) from None


def move(folder: Path, old: Path, new: Path) -> None:
    """Make the files in `folder` that name paths under `old` name those under `new`."""
    if old == new:
        return
    for database in folder.rglob("*.db"):
        _move_in_database(database, str(old), str(new))
    for file in [path for pattern in NAMING_FILES for path in folder.glob(pattern)]:
        content = json.loads(file.read_text())
        if (moved := _moved(content, str(old), str(new))) != content:
            runs.write_text(file, json.dumps(moved, indent=2, ensure_ascii=False) + "\n")


def _moved(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _moved(one, old, new) for key, one in value.items()}
    if isinstance(value, list):
        return [_moved(one, old, new) for one in value]
    under = isinstance(value, str) and f"{value}/".startswith(f"{old}/") and not f"{value}/".startswith(f"{new}/")
    return new + value[len(old) :] if under else value


def _move_in_database(database: Path, old: str, new: str) -> None:
    """In every text of a database that begins with the old path, or with it as a file's address."""
    with closing(sqlite3.connect(database)) as connection, connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        for (table,) in tables.fetchall():
            columns = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
            for column in [one[1] for one in columns if "CHAR" in one[2].upper() or "TEXT" in one[2].upper()]:
                # In an address, `my films` is `my%20films`.
                for before, after in ((old, new), (Path(old).as_uri(), Path(new).as_uri())):
                    connection.execute(
                        f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) WHERE substr("{column}", 1, ?) = ? '
                        f'AND substr("{column}", 1, ?) <> ?',
                        (f"{after}/", len(before) + 2, len(before) + 1, f"{before}/", len(after) + 1, f"{after}/"),
                    )
