"""What requests may take of the gateway, in one place: bytes, seconds, and processor time.

Settings of `ServingConfig` bound what depends on the machine (`max_requests`, `max_body_mb`, `max_memory_mb`,
`body_timeout`). The other bounds are constants here, because no installation needs another value.
"""

import asyncio
import resource
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from storyreason.serving.errors import RefusedError

HEAD_TIMEOUT = 20.0
"""Seconds in which a request's head must arrive, from the start of the connection or the previous response."""
MAX_DESCRIPTORS = 8192
"""Most descriptors of the process. A client costs no more than its connection's until its request has its place."""
MAX_HEAD = 2**16
"""Bytes of a request's target and headers."""
UNREAD_TIMEOUT = 60.0
"""Seconds after which a client that does not read its response loses its connection.

More exactly: the time in which what waits for it must shrink from 64 KiB to 16, which is less than 1 KB/s.
"""
LINGER = 2.0
"""Seconds in which a client that was answered before it had sent its whole request may read the answer."""
MAX_UNSENT = 2**18
"""Bytes of a story's events that may wait for a client. Then the thread that reads from the engine waits, too."""
MAX_VALUES = 500_000
"""Values (numbers, texts, lists, objects) in a JSON body. Each takes up to 100 bytes, however short it is written."""
RETRY_AFTER = 5
"""Seconds that a client is told to wait when the gateway is busy."""
SLICE = 2**18
"""Bytes that are handed to a connection at a time, so that no more than these wait there for a slow reader."""

PIECES = 8
"""Pieces of bodies (of 64 to 256 KiB) that are received in one round of the event loop."""

WORKERS = 2
"""Processes that parse bodies, decode pictures and check answers. Few, since they compete with the engine."""
WORK_TIMEOUT = 120.0
"""Seconds after which a piece of this work is given up, whatever it waits for."""


def max_connections() -> int:
    """Most connections at a time: half of the descriptors that the process may open, of which the system's limit is raised.

    Without a bound, clients that only connect take every descriptor, and the gateway reaches neither its engine nor a file.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(MAX_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most // 2


def work_seconds(size: int) -> float:
    """Processor time that the work on `size` bytes may take: twice what photos need that must be turned, the most expensive."""
    return 10 + 0.3 * size / 2**20


def work_bytes(size: int) -> int:
    """Memory that the process may take for it. One character in a text makes all others four bytes long."""
    return 2**29 + 10 * size


class Share:
    """The part of the memory that one request holds."""

    def __init__(self, memory: "Memory") -> None:
        self._memory = memory
        self._held = 0

    def take(self, size: int) -> None:
        """Hold `size` more bytes. Raises RefusedError (429) if they are not available."""
        if self._memory.held + size > self._memory.most:
            raise RefusedError(
                429,
                f"The gateway holds as much of other requests as it may (serving.max_memory_mb: "
                f"{self._memory.most // 2**20} MiB): try again in {RETRY_AFTER} seconds.",
                retry_after=str(RETRY_AFTER),
            )
        self._held += size
        self._memory.held += size

    def release(self) -> None:
        self._memory.held -= self._held
        self._held = 0


class Memory:
    """Bytes of all requests at a time: their bodies, and the copies that are made of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """What one request takes; it is released at the end of the block."""
        share = Share(self)
        try:
            yield share
        finally:
            share.release()


class Turns:
    """Makes large bodies take turns, `PIECES` in a round of the event loop.

    Otherwise a round in which 200 clients send at full speed takes 0.3 s, and a small request needs several rounds.
    """

    def __init__(self) -> None:
        self._left = PIECES
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def take(self) -> None:
        """Wait for a turn, first come, first served."""
        loop = asyncio.get_running_loop()
        if self._left <= 0:
            waiting = loop.create_future()
            self._waiting.append(waiting)
            await waiting
        self._left -= 1
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._next_round)

    def _next_round(self) -> None:
        self._scheduled, self._left = False, PIECES
        woken = 0
        while self._waiting and woken < PIECES:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                woken += 1
