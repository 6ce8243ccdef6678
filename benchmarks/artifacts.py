"""Storing a version's bytes and fetching them, beside `cp` and `sha256sum` of the same files.

    python benchmarks/artifacts.py --store /dev/shm/store

The store is a folder on another file system than the files, where nothing can be linked, or an address such as s3://bucket/x.
Rounds alternate, and medians are compared. The project asks for 1.3 at most.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")
FILES = 4


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--store", required=True, help="an empty folder on another file system, or an address")
    arguments.add_argument("--mb", type=int, default=512, help="size of all files")
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()
    os.environ["STORYREASON_ARTIFACTS"] = asked.store
    from tasks import artifacts

    with tempfile.TemporaryDirectory(prefix="storyreason-artifacts-") as here:
        place = Path(here)
        seconds: dict[str, list[float]] = {}
        artifacts.put({"warm": _file(place / "warm", 1)})  # connections and imports
        for number in range(asked.rounds):
            files = [_file(place / f"{number}-{part}", asked.mb * 2**20 // FILES) for part in range(FILES)]
            there = Path("/dev/shm" if "://" in asked.store else asked.store) / f"copies-{number}"
            there.mkdir(parents=True)

            def copy(files: list[Path] = files, there: Path = there) -> None:
                _run("cp", *files, there)
                _run("sha256sum", *files)

            def fetch(files: list[Path] = files, there: Path = there, number: int = number) -> None:
                back = place / f"back-{number}"
                back.mkdir()
                _run("cp", *(there / one.name for one in files), back)
                _run("sha256sum", *(back / one.name for one in files))

            _time(seconds, "cp and sha256sum, there", copy)
            stored = _time(seconds, "stored", partial(artifacts.put, {one.name: one for one in files}))
            _time(seconds, "cp and sha256sum, back", fetch)
            _time(seconds, "fetched", partial(artifacts.get, stored, place / f"got-{number}"))
            shutil.rmtree(there)
    for ours, theirs in (("stored", "cp and sha256sum, there"), ("fetched", "cp and sha256sum, back")):
        one, other = (statistics.median(seconds[name]) for name in (ours, theirs))
        print(f"{asked.mb} MiB {ours} in {one:.2f} s, {theirs} {other:.2f} s: {one / other:.2f} times")  # noqa: T201


def _file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def _run(*command: "str | Path") -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _time(seconds: dict[str, list[float]], name: str, act: Callable[[], Found]) -> Found:
    started = time.perf_counter()
    found = act()
    seconds.setdefault(name, []).append(time.perf_counter() - started)
    return found


if __name__ == "__main__":
    main()
