"""Storing a version's bytes and fetching them, beside `cp` and `sha256sum` of the same files.

    python -m benchmarks.artifacts --store /dev/shm/store
    python -m benchmarks.artifacts --store s3://storyreason/models --server

The store is a folder on another file system than the files, where nothing can be linked, or an address such as s3://bucket/x.
`--server` starts the S3 server of the tests (moto, in Python) for it; without it, AWS_ENDPOINT_URL_S3 names another. For S3,
what boto3 alone takes to send and to receive the same files is measured too, after the same hashing: no client of that server
is much faster. Rounds alternate, and medians are compared: seconds, and seconds of CPU time without the server's, which tell how
it is when the server has a machine of its own. The project asks for 1.3 at most.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")
Taken = dict[str, list[tuple[float, float]]]
"""Seconds, and seconds of CPU time of this process and those that it started and waited for."""
FILES = 4


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--store", required=True, help="an empty folder on another file system, or an address")
    arguments.add_argument("--server", action="store_true", help="start the tests' S3 server for s3://storyreason/...")
    arguments.add_argument("--mb", type=int, default=512, help="size of all files")
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()
    os.environ["STORYREASON_ARTIFACTS"] = asked.store
    with _server() if asked.server else contextlib.nullcontext():
        for line in _compared(asked.store, asked.mb, asked.rounds):
            print(line)  # noqa: T201


def _compared(store: str, mb: int, rounds: int) -> Iterator[str]:
    """A line for each pair: how long one took, the other, and how many times that is."""
    from tasks import artifacts

    seconds: Taken = {}
    with tempfile.TemporaryDirectory(prefix="storyreason-artifacts-") as here:
        place = Path(here)
        artifacts.put({"warm": _file(place / "warm", 1)})  # connections and imports
        for number in range(rounds):
            files = [_file(place / f"{number}-{part}", mb * 2**20 // FILES) for part in range(FILES)]
            there = Path("/dev/shm" if "://" in store else store) / f"copies-{number}"
            back = place / f"back-{number}"
            there.mkdir(parents=True)
            back.mkdir()
            copies = [there / one.name for one in files]
            _time(seconds, "cp and sha256sum, there", partial(_copied, files, there))
            stored = _time(seconds, "stored", partial(artifacts.put, {one.name: one for one in files}))
            _time(seconds, "cp and sha256sum, back", partial(_copied, copies, back))
            _time(seconds, "fetched", partial(artifacts.get, stored, place / f"got-{number}"))
            if store.startswith("s3://"):
                _time(seconds, "md5sum and boto3, there", partial(_sent, files, store))
                _time(seconds, "md5sum and boto3, back", partial(_received, files, store))
            shutil.rmtree(there)
    for ours, way in (("stored", "there"), ("fetched", "back")):
        for theirs in (name for name in seconds if name.endswith(way)):
            for unit, which in (("s", 0), ("s of CPU time", 1)):
                one, other = (statistics.median(taken[which] for taken in seconds[name]) for name in (ours, theirs))
                yield f"{mb} MiB {ours} in {one:.2f} {unit}, {theirs} {other:.2f}: {one / other:.2f} times"


def _copied(files: list[Path], to: Path) -> None:
    _run("cp", *files, to)
    _run("sha256sum", *(to / one.name for one in files))


def _sent(files: list[Path], store: str) -> None:
    """What no client can do without: read the files for their hashes, and send them."""
    import boto3

    _run("md5sum", *files)
    bucket, _, prefix = store.removeprefix("s3://").partition("/")
    for one in files:
        boto3.client("s3").upload_file(str(one), bucket, f"{prefix}/plain/{one.name}")


def _received(files: list[Path], store: str) -> None:
    import boto3

    bucket, _, prefix = store.removeprefix("s3://").partition("/")
    for one in files:
        boto3.client("s3").download_file(bucket, f"{prefix}/plain/{one.name}", str(one))
    _run("md5sum", *files)


@contextlib.contextmanager
def _server() -> Iterator[None]:
    """The tests' S3 server, in a process of its own."""
    from tests.stores import CREDENTIALS

    code = "import sys; from tests.stores import s3\nwith s3() as it: print(it.url, flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    ) as it:
        assert it.stdout is not None and it.stdin is not None
        os.environ |= {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": it.stdout.readline().strip()}
        yield
        it.stdin.close()


def _file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def _run(*command: "str | Path") -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _time(seconds: Taken, name: str, act: Callable[[], Found]) -> Found:
    started, before = time.perf_counter(), sum(os.times()[:4])
    found = act()
    seconds.setdefault(name, []).append((time.perf_counter() - started, sum(os.times()[:4]) - before))
    return found


if __name__ == "__main__":
    main()
