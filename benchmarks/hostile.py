"""What hostile requests do to everybody else: `/healthz`'s slowest answer, and the memory of the gateway.

python benchmarks/hostile.py                      every heavy kind of the table, 200 requests at a time, then all mixed
python benchmarks/hostile.py --kind "a well"      one kind

The requests are those of tests/storyreason/serving/worst.py. Clients, engine and gateway share the machine; clients and engine,
which would be on others, leave the gateway the processor when it wants it.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

app = typer.Typer(add_completion=False, invoke_without_command=True, help=__doc__)

MIXED, UNREAD, GONE, SLOW = "all mixed", "a stream that nobody reads", "clients that vanish", "bodies that never end"
ELSEWHERE = 15
"""How much lower the priority is of what would be on another machine."""
PATIENCE = 25.0
"""Seconds that a client waits for more."""


def contents() -> dict[str, Callable[[], bytes]]:
    """The heavy kinds, by name."""
    from tests.storyreason.serving.asked import SMALL, STORIES
    from tests.storyreason.serving.worst import TABLE, post

    story = json.dumps({"images": [SMALL], "decoding": "free"}).encode()
    return {one.name: one.content for one in TABLE if one.heavy} | {
        UNREAD: lambda: post(STORIES, story, "Accept: text/event-stream"),
        GONE: lambda: post(STORIES, story, "Accept: text/event-stream"),
        SLOW: lambda: post(STORIES, b"[" * 2**20)[: -(2**19)],
    }


def start_peak(process: Any) -> int:
    """Bytes of memory that a process and its children (psutil's) have now; `peak` counts from here."""
    together = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(OSError):
            Path(f"/proc/{one.pid}/clear_refs").write_text("5")
            together += _status(one.pid, "VmRSS")
    return together


def peak(process: Any) -> int:
    """The most bytes that they have had since; the sum of each one's own peak."""
    together = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(OSError):
            together += _status(one.pid, "VmHWM")
    return together


def _status(pid: int, name: str) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


@app.command(hidden=True)
def engine() -> None:
    """An engine by script, in a process of its own: a long answer, as a stream or at once. Prints its address."""
    from tests.storyreason.generation.endpoint import answer, endpoint, stream

    os.nice(ELSEWHERE)
    row = "| char{} | Mara | a woman with a red coat and a long shadow | waits | 1,2,3,4 |\n"
    text = "<think>\n## Image 1\n### Characters\n" + "".join(map(row.format, range(1000)))
    pieces = [text[start : start + 8] for start in range(0, len(text), 8)]
    with endpoint(lambda body: stream(pieces) if body.get("stream") else answer(text[:20_000])) as url:
        print(url, flush=True)  # noqa: T201
        sys.stdin.read()


@app.command(hidden=True)
def send(url: str, kind: str, count: int) -> None:
    """Send `count` requests of a kind at a time. Prints how many had which status."""
    os.nice(ELSEWHERE)
    place = urlsplit(url)
    kinds = contents()
    names = list(kinds) if kind == MIXED else [kind]
    made = {name: kinds[name]() for name in names}

    def one(number: int) -> str:
        name = names[number % len(names)]
        with socket.create_connection((place.hostname, place.port or 80), timeout=PATIENCE) as connection:
            said = b""
            with contextlib.suppress(OSError):
                connection.sendall(made[name])
            with contextlib.suppress(OSError):
                if name == GONE:
                    said = connection.recv(100)
                    return "left"
                if name == UNREAD:
                    time.sleep(PATIENCE)
                while part := connection.recv(2**16):
                    said = (said + part)[:100]
            return said[9:12].decode() or "closed"

    with ThreadPoolExecutor(count) as pool:
        print(json.dumps(Counter(pool.map(one, range(count)))), flush=True)  # noqa: T201


@contextlib.contextmanager
def worst_answer(url: str) -> Iterator[list[float]]:
    """The seconds of each answer of `/healthz` meanwhile, asked 20 times a second."""
    seconds: list[float] = []
    ended = threading.Event()
    place = urlsplit(url)

    def ask() -> None:
        while not ended.wait(0.05):
            start = time.perf_counter()
            connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/healthz")
                connection.getresponse().read()
            connection.close()
            seconds.append(time.perf_counter() - start)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield seconds
    finally:
        ended.set()
        asking.join()


@app.callback()
def main(
    context: typer.Context,
    kind: Annotated[list[str] | None, typer.Option(help="A kind of the table; give it several times.")] = None,
    count: Annotated[int, typer.Option(min=1, max=1024, help="Requests at a time, and serving.max_requests.")] = 200,
) -> None:
    """Send the worst requests and watch `/healthz`."""
    if context.invoked_subcommand:
        return
    from benchmarks.serving import gateway_before

    if unknown := {*(kind or [])} - {*contents(), MIXED}:
        raise typer.BadParameter(f"no such kind: {', '.join(unknown)}; there are {', '.join([*contents(), MIXED])}")
    table = Table("kind", "answers", "seconds", "worst /healthz, ms", "median, ms", "peak of all processes, MiB")
    script = subprocess.Popen(
        [sys.executable, __file__, "engine"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert script.stdin is not None and script.stdout is not None
    try:
        with gateway_before(
            script.stdout.readline().strip(), "storyteller", max_requests=count, body_timeout=10
        ) as found:
            url, process = found
            for name in kind or [*contents(), MIXED]:
                start_peak(process)
                start = time.monotonic()
                with worst_answer(url) as answers:
                    command = [sys.executable, __file__, "send", url, name, str(count)]
                    statuses = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                said = ", ".join(f"{number} x {status}" for status, number in sorted(statuses.items()))
                table.add_row(
                    name, said, f"{time.monotonic() - start:.0f}", f"{1000 * max(answers):.0f}",
                    f"{1000 * sorted(answers)[len(answers) // 2]:.1f}", f"{peak(process) / 2**20:.0f}",
                )  # fmt: skip
    finally:
        script.stdin.close()
        script.wait()
    Console(highlight=False).print(table)


if __name__ == "__main__":
    app()
