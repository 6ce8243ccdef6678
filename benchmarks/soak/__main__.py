"""Thousands of stories through one gateway, with swaps, clients that vanish, slow ones and hostile ones mixed in.

    python -m benchmarks.soak --stories 10000

The gateway is the real one in a process of its own; its engine is scripted, so that every answer is known in advance. Three
things must hold: what was sent came back whole, was refused by rule, or was cancelled by us; the gateway's memory after
all of it is at most 1.05 times that after a fifth; and its descriptors are as many. The exit code says whether they do.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import psutil
import typer

from benchmarks.soak.clients import Clients, Ended, Outcome
from benchmarks.soak.gateway import TRIMMED

MEMORY = 1.05
"""Most memory after all stories, as a multiple of that after the first fifth."""
ENOUGH = 10_000
"""Stories from which on memory is judged: the first of them still fill caches and pools."""
PARTS = 5
"""How often the footprint is taken."""
CLIENTS = 16
"""Requests at a time."""
SETTLE = 90.0
"""Seconds that the gateway may take to close what the last client left open."""


@dataclass(frozen=True)
class Footprint:
    """What a process holds: MiB of memory of its own, `kept` before it returned to the system what it does not use, and
    `memory` after that; open descriptors, threads."""

    kept: float
    memory: float
    descriptors: int
    threads: int


@contextlib.contextmanager
def process(module: str, *arguments: object, runs: Path) -> Iterator[psutil.Process]:
    """A module of this folder as a process, until the block ends."""
    command = [sys.executable, "-m", f"benchmarks.soak.{module}", *map(str, arguments)]
    environment = os.environ | {"STORYREASON_RUNS": str(runs)}
    with (
        (runs / f"{module}.log").open("ab") as log,
        subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environment, stdout=log, stderr=log) as started,
    ):
        try:
            yield psutil.Process(started.pid)
        finally:
            started.terminate()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class Soak:
    """One gateway, its engine and its clients."""

    def __init__(self, runs: Path, ports: list[int], gateway: psutil.Process, clients: Clients) -> None:
        self.runs, self.ports, self.gateway, self.clients = runs, ports, gateway, clients
        self.outcomes: list[Outcome] = []
        self.swaps = 0
        for name in ("one", "two"):
            (runs / name).mkdir()
            (runs / name / "config.json").write_text("{}")

    async def ask(self, method: str, path: str, body: Any = None, port: int | None = None) -> Any:
        """An administrator's request to the gateway, or one to the engine's port."""
        headers = {"authorization": f"Bearer {(self.runs / 'gateway/token').read_text()}"}
        url = f"http://127.0.0.1:{port or self.ports[0]}{path}"
        async with self.clients.session.request(method, url, json=body, headers=headers) as response:
            response.raise_for_status()
            return await response.json()

    async def start(self) -> None:
        deadline = time.monotonic() + SETTLE
        while True:
            with contextlib.suppress(aiohttp.ClientError, FileNotFoundError):
                await self.ask("GET", "/admin/status")
                await self.ask("GET", "/counts", port=self.ports[1])
                break
            if time.monotonic() > deadline:
                sys.exit(f"no gateway answers:\n{(self.runs / 'gateway.log').read_text()}")
            await asyncio.sleep(0.1)
        await self.swap()

    async def swap(self) -> None:
        self.swaps += 1
        folder = self.runs / ("one", "two")[self.swaps % 2]
        await self.ask("POST", "/admin/deploy", {"folder": str(folder), "version": str(self.swaps)})

    async def stories(self, first: int, last: int, every: int) -> None:
        """Requests `first` to `last`, so many at a time; a swap at every so many."""
        numbers = iter(range(first, last))
        swaps = []

        async def one_client() -> None:
            for number in numbers:
                if number % every == every - 1:
                    swaps.append(asyncio.create_task(self.swap()))
                self.outcomes.append(await self.clients.send(number))

        await asyncio.gather(*(one_client() for _ in range(CLIENTS)))
        await asyncio.gather(*swaps)

    async def footprint(self) -> Footprint:
        """What the gateway holds once it is idle: no request in flight, no connection left open."""
        deadline = time.monotonic() + SETTLE
        while time.monotonic() < deadline:
            counts = await self.ask("GET", "/counts", port=self.ports[1])
            status = await self.ask("GET", "/admin/status")
            connections = [one for one in self.gateway.net_connections() if one.status == psutil.CONN_ESTABLISHED]
            if not status["requests"] and counts["begun"] == counts["whole"] + counts["aborted"] and not connections:
                break
            await asyncio.sleep(0.5)
        kept = self._memory()
        trimmed = self.runs / TRIMMED
        self.gateway.send_signal(signal.SIGUSR2)
        while not trimmed.exists():
            await asyncio.sleep(0.1)
        trimmed.unlink()
        return Footprint(kept, self._memory(), self.gateway.num_fds(), self.gateway.num_threads())

    def _memory(self) -> float:
        return round(float(self.gateway.memory_full_info().uss) / 2**20, 1)


@contextlib.asynccontextmanager
async def soaking(seed: int) -> AsyncIterator[Soak]:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        runs, ports = Path(folder), free_ports(3)
        stack.enter_context(process("engine", *ports[1:], runs=runs))
        gateway = stack.enter_context(process("gateway", *ports, runs=runs))
        clients = Clients(f"http://127.0.0.1:{ports[0]}", seed)
        try:
            soak = Soak(runs, ports, gateway, clients)
            await soak.start()
            yield soak
        finally:
            await clients.session.close()


async def measure(stories: int, seed: int, every: int) -> dict[str, Any]:
    """The soak's report; `faults` is empty if everything held."""
    start = time.monotonic()
    async with soaking(seed) as soak:
        footprints = []
        for part in range(PARTS):
            await soak.stories(part * stories // PARTS, (part + 1) * stories // PARTS, every)
            footprints.append(await soak.footprint())
            typer.echo(f"{len(soak.outcomes)} stories, {time.monotonic() - start:.0f} s: {footprints[-1]}", err=True)
        early, late = footprints[0], footprints[-1]
        counts = await soak.ask("GET", "/counts", port=soak.ports[1])
        status = await soak.ask("GET", "/admin/status")
        log = (soak.runs / "gateway.log").read_text()
    ends = Counter(one.ended for one in soak.outcomes)
    faults = [f"{one.kind}: {one.said}" for one in soak.outcomes if one.ended is Ended.WRONG]
    if len(soak.outcomes) != stories:
        faults.append(f"{stories} were sent and {len(soak.outcomes)} ended")
    if late.memory > MEMORY * early.memory and stories >= ENOUGH:
        faults.append(f"memory grew from {early.memory} to {late.memory} MiB")
    if late.descriptors != early.descriptors:
        faults.append(f"descriptors went from {early.descriptors} to {late.descriptors}")
    if status["requests"] or counts["begun"] != counts["whole"] + counts["aborted"]:
        faults.append(f"{status['requests']} requests are still in flight; the engine counts {counts}")
    if "Traceback" in log:
        faults.append("the gateway's log has a stack trace: " + log[log.index("Traceback") :][:3000])
    return {
        "stories": stories, "seed": seed, "seconds": round(time.monotonic() - start), "swaps": soak.swaps,
        "ends": {str(end): ends[end] for end in Ended}, "kinds": dict(Counter(one.kind for one in soak.outcomes)),
        "engine": counts, "footprints": [vars(one) for one in footprints], "faults": faults[:20],
    }  # fmt: skip


def main(
    stories: Annotated[int, typer.Option(min=100)] = 10_000,
    seed: Annotated[int, typer.Option(help="Determines every request.")] = 0,
    swap_every: Annotated[int, typer.Option(min=1, help="Requests between two deployments.")] = 250,
) -> None:
    """Send so many requests and say whether everything held."""
    report = asyncio.run(measure(stories, seed, swap_every))
    typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    if report["faults"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
