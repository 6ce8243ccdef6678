"""Databases of Prefect and MLflow that older versions of them made: a copy of each first, then its migration."""

import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from storyreason import runs
from storyreason.errors import RunError, without_password

SQLITE = "sqlite:///"
QUERY = "SELECT version_num FROM alembic_version"
MIGRATIONS = {
    "Prefect": ("prefect", "server/database/_migrations/versions/sqlite"),
    "MLflow": ("mlflow", "store/db_migrations/versions"),
}
"""Where each package keeps the migrations of its database, as files for Alembic."""


@dataclass(frozen=True)
class Database:
    """A database of this checkout, the revision it has, and the one that the installed version wants."""

    name: str
    url: str
    revision: str
    wanted: str

    @property
    def path(self) -> Path:
        """Its file."""
        return Path(self.url.removeprefix(SQLITE))


def migrate(say: Callable[[str], None]) -> None:
    """Migrate the databases that an older version made, and keep a copy of each in `runs/backups/`.

    Call it before Prefect or MLflow are used: MLflow migrates some of its databases itself, without a copy. Raises RunError
    for one that a newer version made, for one on a server, which people back up themselves, and when a migration fails.
    """
    with ExitStack() as alone:
        try:
            alone.enter_context(runs.lock(_prefect_home(), wait=0))
        except RunError:  # a flow with its own server runs: its start has migrated them, or is making them
            return
        _migrate(say)


def _migrate(say: Callable[[str], None]) -> None:
    for database in outdated():
        if not database.url.startswith(SQLITE):
            raise RunError(
                f"{database.name}'s database {without_password(database.url)} was made by an older version: back it up (for "
                f"example with `pg_dump`), then migrate it with `mlflow db upgrade` and its address."
            )
        copy = runs.root() / "backups" / f"{database.path.stem}-{time.strftime('%Y%m%dT%H%M%S')}-{database.revision}.db"
        say(f"{database.name}'s database was made by an older version: it is migrated now, and a copy of it is {copy}")
        save(database.path, copy)
        _run(database, copy)


def outdated() -> Iterator[Database]:
    """The databases whose revision differs from what is installed. Raises RunError for one of a newer version."""
    for name, url in _addresses():
        package, folder = MIGRATIONS[name]
        found = _revision(url)
        if found is None:
            continue
        wanted, known = revisions(package, folder)
        if found not in known:
            raise RunError(
                f"{name}'s database {without_password(url)} was made by a newer version of {name} than is installed: run "
                "`make install` with the lock it was made with, or put back its copy from runs/backups."
            )
        if found != wanted:
            yield Database(name, url, found, wanted)


def save(database: Path, copy: Path) -> None:
    """A copy of an SQLite database as it is at one moment, also while others write to it; written whole or not at all."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    part = copy.with_name(f".{copy.name}.part")
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(part)) as target:
        source.backup(target)
    part.rename(copy)


def revisions(package: str, folder: str) -> tuple[str, set[str]]:
    """The newest revision of a package's migrations, and all of them.

    Read from the text of Alembic's files: to load them is to import the package, and Prefect reads its settings then.
    """
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    texts = [file.read_text() for file in (Path(spec.submodule_search_locations[0]) / folder).glob("*.py")]

    def named(key: str) -> set[str]:
        return {found for text in texts for found in re.findall(rf'^{key}\b[^=\n]*=\s*["\'](\w+)["\']', text, re.M)}

    known = named("revision")
    (newest,) = known - named("down_revision")
    return newest, known


def _addresses() -> Iterator[tuple[str, str]]:
    """The databases that this checkout's own servers use. Prefect's on a server are migrated by Prefect."""
    if not os.environ.get("PREFECT_API_URL"):
        url = os.environ.get("PREFECT_API_DATABASE_CONNECTION_URL", "")
        if not url or url.startswith("sqlite"):
            yield "Prefect", f"{SQLITE}{url.partition(':///')[2] or _prefect_home() / 'prefect.db'}"
    if not (url := os.environ.get("MLFLOW_TRACKING_URI", "")).startswith("http"):
        yield "MLflow", url


def _prefect_home() -> Path:
    return Path(os.environ.get("PREFECT_HOME") or runs.root() / "prefect")


def _revision(url: str) -> str | None:
    """The revision that a database says it has; None for one that does not exist yet."""
    if url.startswith(SQLITE):
        path = Path(url.removeprefix(SQLITE))
        if not path.is_file():
            return None
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            try:
                (revision,) = opened.execute(QUERY).fetchone()
                return str(revision)
            except (sqlite3.Error, TypeError):  # an empty one
                return None
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = create_engine(url)
    except (SQLAlchemyError, ImportError):  # no database's address, such as a folder's, or its driver is missing
        return None
    try:
        with engine.connect() as connection:
            return str(connection.execute(text(QUERY)).scalar_one())
    except SQLAlchemyError:  # an empty one, or a server that does not answer: who uses it says so
        return None
    finally:
        engine.dispose()


def _run(database: Database, copy: Path) -> None:
    commands = {
        "Prefect": ["prefect", "server", "database", "upgrade", "-y"],
        "MLflow": ["mlflow", "db", "upgrade", database.url],
    }
    done = subprocess.run([sys.executable, "-m", *commands[database.name]], capture_output=True, text=True)
    if done.returncode or _revision(database.url) != database.wanted:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it says nothing"]
        raise RunError(
            f"{database.name}'s database could not be migrated: {said[-1]}. Put back the copy ({copy}) in place of "
            f"{database.path}, and run `make install` with the lock it was made with."
        )
