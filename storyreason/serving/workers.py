"""The processes that do a request's work: few, bounded in time and memory, and replaced when one ends."""

import asyncio
import atexit
import contextlib
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from storyreason.serving.budget import WORK_TIMEOUT, WORKERS, work_bytes, work_seconds
from storyreason.serving.config import ServingConfig
from storyreason.serving.errors import RefusedError
from storyreason.serving.worker import Json, Parts, read, write

COMMAND = (sys.executable, "-m", "storyreason.serving.worker")

log = logging.getLogger(__name__)


class Workers:
    """Each thread of the pool has a process, which it starts when there is something to do."""

    def __init__(self, count: int = WORKERS, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._mine = threading.local()
        self._all: set[subprocess.Popen[bytes]] = set()

    async def do(self, job: str, given: Json, *parts: bytes) -> tuple[Json, list[bytes]]:
        """The result of a job of `worker.JOBS`, with its parts.

        Raises RefusedError as the job does, or if it needs too much time or memory (413). If this is cancelled, a job that
        has not begun never does.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._do, job, given, parts)

    def _do(self, job: str, given: Json, parts: Parts) -> tuple[Json, list[bytes]]:
        process = self._process()
        late = threading.Timer(WORK_TIMEOUT, process.kill)
        late.start()
        try:
            assert process.stdin is not None and process.stdout is not None
            write(process.stdin, {"job": job, "given": given}, parts)
            answer, found = read(process.stdout)
        except (OSError, EOFError):
            raise self._ended(process, sum(map(len, parts))) from None
        finally:
            late.cancel()
        if "refused" in answer:
            raise RefusedError(answer["refused"]["code"], answer["refused"]["message"])
        if "failed" in answer:
            log.error("a worker failed: %s", answer["failed"])
            raise RefusedError(500, "The gateway failed to read this request: its log says why.")
        return answer["result"], found

    def _process(self) -> "subprocess.Popen[bytes]":
        process: subprocess.Popen[bytes] | None = getattr(self._mine, "process", None)
        if process is None or process.poll() is not None:
            process = self._mine.process = subprocess.Popen(
                self._command,
                cwd=Path(__file__).parents[2],  # so that it imports this storyreason, installed or not
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            self._all.add(process)
        return process

    def _ended(self, process: "subprocess.Popen[bytes]", size: int) -> RefusedError:
        """Why a process ended in the middle of its work on `size` bytes."""
        self._close(process)
        if process.returncode == -signal.SIGPROF:
            why = f"more than {work_seconds(size):.0f} s of processor time"
        elif process.returncode == -signal.SIGKILL:
            why = f"more than {WORK_TIMEOUT:.0f} s, or more memory than there is"
        else:
            why = f"more than {work_bytes(size) // 2**20} MiB of memory"
        log.warning("a worker ended with %d: its request took %s", process.returncode, why)
        return RefusedError(413, f"This request takes {why} to read: send less.")

    def _close(self, process: "subprocess.Popen[bytes]") -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()
        self._all.discard(process)

    def close(self) -> None:
        """End the processes. What they are doing is not waited for."""
        for process in list(self._all):
            process.kill()
            self._close(process)


workers = Workers()
"""Those of this process. Engines are started and stopped in asyncio's own threads, so that they never wait for clients."""
atexit.register(workers.close)


def settings_of(config: ServingConfig) -> Json:
    """What a job needs of the settings."""
    return config.model_dump(mode="json", include={"images_per_prompt"})
