"""A story while it is being generated, as server-sent events.

    event: progress   {"stage": "analysis", "images": 1, "tokens": 43}         at each stage, image, and every 20 tokens
    event: text       {"text": "| char1 | Mara |"}                             as the model writes; with "back": 12,
                                                                               first remove that many characters
    event: row        {"kind": "character", "image": 1, "id": "char1", …}      a complete row of a table
    event: span       {"image": 1, "kind": "gdo", "ids": ["char1"], "text": "Mara"}   or plain: {"image": 1, "text": …}
    event: view       the JSON of page.view for everything complete so far, without pictures; at most 4 a second,
                                                                               fewer to a client that reads slowly
    event: done       the response that a request without streaming gets
    event: error      {"error": {"message": "…", "code": 503}}

The last event is `done` or `error`. A row or span that changed afterwards (a repaired box) is sent again.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

from storyreason import page
from storyreason.format import answer
from storyreason.format.analysis import Section
from storyreason.format.answer import Found
from storyreason.format.story import Mention, Passage
from storyreason.generation.openai import Chunk
from storyreason.serving.budget import MAX_UNSENT
from storyreason.serving.routing import Message, Receive, Send, unless_gone

Json = dict[str, Any]
Emit = Callable[[str, Json], object]

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent, so that no proxy considers the stream dead."""
BETWEEN_VIEWS = 0.25
"""Seconds, at least. Nor do views take more than a twentieth of the time of their story's thread."""
BETWEEN_PROGRESS = 20
"""Tokens."""


class StoryEvents:
    """Turns the chunks of one answer into events, parsing the answer as it grows."""

    def __init__(
        self, sizes: Sequence[tuple[int, int]], emit: Emit, *, keeps_up: Callable[[], bool] = lambda: True
    ) -> None:
        """`sizes` are the images' (width, height) in pixels. `keeps_up`: whether the client has read the last view."""
        self._sizes = sizes
        self._emit = emit
        self._keeps_up = keeps_up
        self._pieces: list[str] = []
        self._reader = answer.Reader()
        self._emitted: list[Found] = []  # rows and spans, in the order of the text
        self._stage, self._images = "analysis", 0
        self._progress: tuple[str, int, int] = ("", 0, 0)
        self._changed = False
        self._next_view = 0.0

    def feed(self, chunk: Chunk) -> None:
        """Runs in the thread that reads from the engine. Linear in the answer's length, except for the few chunks with `back`."""
        if chunk.text or chunk.back:
            self._emit("text", {"text": chunk.text} | ({"back": chunk.back} if chunk.back else {}))
        if chunk.back:
            self._pieces = ["".join(self._pieces)[: -chunk.back], chunk.text]
            self._read_again()
        else:
            self._pieces.append(chunk.text)
            self._emit_found(self._reader.feed(chunk.text))
        self._emit_progress(chunk.tokens)
        now = time.monotonic()
        if self._changed and now >= self._next_view and self._keeps_up():
            self._emit("view", page.so_far("story", self._sizes, self._reader.answer()))
            self._changed = False
            self._next_view = now + max(BETWEEN_VIEWS, 20 * (time.monotonic() - now))

    def _read_again(self) -> None:
        """Characters were taken back: parse again, and emit only what differs from before."""
        before, self._emitted, self._reader = self._emitted, [], answer.Reader()
        self._stage, self._images, self._changed = "analysis", 0, True
        self._emit_found(self._reader.feed("".join(self._pieces)), before)

    def _emit_found(self, all_found: Sequence[Found], known: Sequence[Found] = ()) -> None:
        for found in all_found:
            if isinstance(found.what, (Section, Passage)):
                stage = "analysis" if isinstance(found.what, Section) else "story"
                self._images = self._images + 1 if stage == self._stage else 1
                self._stage = stage
                continue
            self._emitted.append(found)
            if found not in known:
                self._changed = True
                self._emit(*_event(found))

    def _emit_progress(self, tokens: int) -> None:
        stage, images, before = self._progress
        if (self._stage, self._images) != (stage, images) or tokens - before >= BETWEEN_PROGRESS:
            self._progress = (self._stage, self._images, tokens)
            self._emit("progress", {"stage": self._stage, "images": self._images, "tokens": tokens})


def _event(found: Found) -> tuple[str, Json]:
    image, what = found
    if isinstance(what, str):
        return "span", {"image": image, "text": what}
    if isinstance(what, Mention):
        return "span", {"image": image, "kind": what.kind, "ids": list(what.ids), "text": what.text}
    fields = asdict(what)
    del fields["line"]
    if fields.get("box") is not None:
        fields["box"] = list(fields["box"])
    return "row", {"kind": type(what).__name__.lower(), "image": image, **fields}


class Outbox:
    """Events that wait to be sent. Those of a client that does not read would otherwise pile up without an end.

    All that wait are sent as one part: one by one, those of 200 clients kept the event loop from anything else for seconds.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._views = self._unsent = 0
        """How many views were not sent yet, and how many bytes."""
        self._room = threading.Event()
        self._room.set()
        self._ended = self._closed = False

    def put(self, event: str, data: Json | bytes) -> None:
        """Add an event, from any thread. `data` may be JSON that is written already, in one line."""
        line = data if isinstance(data, bytes) else _json(data)
        content = b"event: %s\ndata: %s\n\n" % (event.encode(), line)
        with self._lock:
            first = not self._waiting
            self._waiting.append(content)
            self._unsent += len(content)
            self._views += event == "view"
            if self._unsent > MAX_UNSENT and not self._closed:
                self._room.clear()
        if first:
            with contextlib.suppress(RuntimeError):  # the event loop has ended, and the client with it
                self._loop.call_soon_threadsafe(self._arrived.set)

    def wait(self) -> None:
        """Wait, in a thread, until there is room for more, or nobody reads it any more."""
        self._room.wait()

    def keeps_up(self) -> bool:
        """Whether the last view was sent."""
        return not self._views

    def end(self) -> None:
        """Nothing comes any more."""
        self._ended = True
        self._arrived.set()

    def close(self) -> None:
        """Nobody reads any more."""
        with self._lock:
            self._closed = True
            self._room.set()

    async def send_all(self, send: Send) -> None:
        """Send what comes, until its end."""
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE):
                    await self._arrived.wait()
            except TimeoutError:
                await send({"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True})
                continue
            self._arrived.clear()
            with self._lock:
                events, self._waiting, views = self._waiting, [], self._views
            if events:
                await send({"type": "http.response.body", "body": b"".join(events), "more_body": True})
                with self._lock:
                    self._unsent -= sum(map(len, events))
                    self._views -= views
                    if self._unsent <= MAX_UNSENT:
                        self._room.set()
            if self._ended and not self._waiting:
                return await send({"type": "http.response.body", "body": b""})


Tell = Callable[[Outbox], Awaitable[tuple[str, Json | bytes]]]


class EventStream:
    """An ASGI response that streams the events that `tell` puts into the outbox, and at the end the one it returns.

    When the client disconnects, `tell` is cancelled and awaited.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # tells a proxy in front not to buffer
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await unless_gone(self._stream(send), receive)

    async def _stream(self, send: Send) -> None:
        outbox = Outbox()
        telling = asyncio.create_task(self._put_all(outbox))
        try:
            await outbox.send_all(send)
        finally:
            outbox.close()
            telling.cancel()
            await asyncio.wait((telling,))
        if not telling.cancelled():
            telling.result()

    async def _put_all(self, outbox: Outbox) -> None:
        try:
            outbox.put(*await self._tell(outbox))
        finally:
            outbox.end()


def _json(data: Json) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
