"""Stores that a cluster has, as real servers on this machine: PostgreSQL of Debian's packages, and S3 (moto)."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


PASSWORD = "S3CRET-of-the-tests"
"""PostgreSQL's password. No command line and no log may show it."""


@dataclass(frozen=True)
class Postgres:
    """A server that listens on 127.0.0.1 alone, for the user `storyreason`."""

    port: int

    def url(self, driver: str, database: str) -> str:
        return f"postgresql+{driver}://storyreason:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def ask(self, sql: str, database: str = "postgres") -> list[Any]:
        """The rows that a statement gives; none for one that gives no rows."""
        import pg8000.native

        with pg8000.native.Connection(
            "storyreason", password=PASSWORD, host="127.0.0.1", port=self.port, database=database
        ) as connection:
            return list(connection.run(sql) or [])


@contextlib.contextmanager
def postgres(*databases: str) -> Iterator[Postgres]:
    """A new server with these databases. Skips the test where Debian's `postgresql` is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL on this machine: install Debian's `postgresql`")
    programs = found[-1].parent
    # It refuses to run as root, and another user cannot enter the folders of root's tests, nor root's TMPDIR.
    other: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="storyreason-postgres-", dir="/tmp" if other else None))
    try:
        (folder / "password").write_text(PASSWORD)
        if other:
            for path in (folder, folder / "password"):
                shutil.chown(path, other["user"], other["group"])
        made = subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "storyreason", "--pwfile", folder / "password",
             "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"],
            cwd=folder, text=True, capture_output=True, **other,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        with _running(programs / "postgres", folder, other) as server:
            for name in databases:
                server.ask(f"CREATE DATABASE {name}")
            yield server
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _running(program: Path, folder: Path, other: dict[str, Any]) -> Iterator[Postgres]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = Postgres(probe.getsockname()[1])
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-D", folder / "data", "-p", str(server.port), "-c", "listen_addresses=127.0.0.1",
             "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=200"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **other,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not _answers(server):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # at once, and in order
        process.wait(timeout=60)


def _answers(server: Postgres) -> bool:
    import pg8000.exceptions

    try:
        server.ask("SELECT 1")
    except (OSError, pg8000.exceptions.InterfaceError, pg8000.exceptions.DatabaseError):
        return False
    return True


@dataclass
class S3:
    """A server of S3's API with one bucket, `storyreason`."""

    url: str
    server: Any

    @property
    def environment(self) -> dict[str, str]:
        """What leads the usual clients (boto3, and so MLflow; s3fs, and so DVC) to it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": self.url}

    def names(self, prefix: str = "") -> list[str]:
        """The objects whose names begin so."""
        listed = self._client().list_objects_v2(Bucket="storyreason", Prefix=prefix)
        return [one["Key"] for one in listed.get("Contents", [])]

    def put(self, name: str, content: bytes) -> None:
        self._client().put_object(Bucket="storyreason", Key=name, Body=content)

    def remove(self, name: str) -> None:
        self._client().delete_object(Bucket="storyreason", Key=name)

    def _client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )


@contextlib.contextmanager
def s3() -> Iterator[S3]:
    """A new server, empty but for its bucket, in a thread of this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    store = S3(f"http://{host}:{port}", server)
    try:
        # all servers of a process share what they hold: another module may have left something
        urllib.request.urlopen(urllib.request.Request(f"{store.url}/moto-api/reset", method="POST"), timeout=60).close()
        store._client().create_bucket(Bucket="storyreason")
        yield store
    finally:
        server.stop()
