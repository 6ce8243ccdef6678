"""A story while it is being generated, as server-sent events.

    event: progress   {"stage": "analysis", "images": 1, "tokens": 43}         at each stage, image, and every 20 tokens
    event: text       {"text": "| char1 | Mara |"}                             as the model writes; with "back": 12,
                                                                               first remove that many characters
    event: row        {"kind": "character", "image": 1, "id": "char1", …}      a complete row of a table
    event: span       {"image": 1, "kind": "gdo", "ids": ["char1"], "text": "Mara"}   or plain: {"image": 1, "text": …}
    event: view       the JSON of page.view for everything complete so far, without pictures; at most 4 a second
    event: done       the response that a request without streaming gets
    event: error      {"error": {"message": "…", "code": 503}}

The last event is `done` or `error`. A row or span that changed afterwards (a repaired box) is sent again.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

from storyreason import page
from storyreason.format import answer
from storyreason.format.analysis import Section
from storyreason.format.answer import Answer, Found
from storyreason.format.story import Mention, Passage
from storyreason.generation.openai import Chunk
from storyreason.serving.routing import Message, Receive, Send, until_disconnected

log = logging.getLogger(__name__)

Json = dict[str, Any]
Emit = Callable[[str, Json], None]

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent, so that no proxy considers the stream dead."""
BETWEEN_VIEWS = 0.25
"""Seconds."""
BETWEEN_PROGRESS = 20
"""Tokens."""


class StoryEvents:
    """Turns the chunks of one answer into events, parsing the answer as it grows."""

    def __init__(self, sizes: Sequence[tuple[int, int]], emit: Emit) -> None:
        """`sizes` are the images' (width, height) in pixels."""
        self._sizes = sizes
        self._emit = emit
        self._text = ""
        self._reader = answer.Reader()
        self._emitted: list[Found] = []  # rows and spans, in the order of the text
        self._stage, self._images = "analysis", 0
        self._progress: tuple[str, int, int] = ("", 0, 0)
        self._changed = False
        self._last_view = 0.0

    def feed(self, chunk: Chunk) -> None:
        """Runs in the thread that reads from the engine. Linear in the answer's length, except for the few chunks with `back`."""
        if chunk.text or chunk.back:
            self._emit("text", {"text": chunk.text} | ({"back": chunk.back} if chunk.back else {}))
        if chunk.back:
            self._text = self._text[: -chunk.back] + chunk.text
            self._read_again()
        else:
            self._text += chunk.text
            self._emit_found(self._reader.feed(chunk.text))
        self._emit_progress(chunk.tokens)
        now = time.monotonic()
        if self._changed and now - self._last_view >= BETWEEN_VIEWS:
            self._emit("view", page.so_far("story", self._sizes, self._reader.answer()))
            self._changed, self._last_view = False, now

    def whole(self, text: str) -> Answer:
        """`text` as it was read while it came; it is read again only if something else came."""
        return self._reader.close() if text == self._text else answer.read(text)

    def _read_again(self) -> None:
        """Characters were taken back: parse again, and emit only what differs from before."""
        before, self._emitted, self._reader = self._emitted, [], answer.Reader()
        self._stage, self._images, self._changed = "analysis", 0, True
        self._emit_found(self._reader.feed(self._text), before)

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


class EventStream:
    """An ASGI response that streams the events that `tell` emits, and at the end the one it returns.

    When the client disconnects, `tell` is cancelled and awaited.
    """

    def __init__(self, tell: Callable[[Emit], Awaitable[tuple[str, Json]]]) -> None:
        """`tell(emit)` returns the last event. It may call `emit` from any thread."""
        self._emit_found = tell
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # tells a proxy in front not to buffer
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        telling = asyncio.create_task(self._work())
        sending = asyncio.create_task(self._send_all(send))
        gone = asyncio.create_task(until_disconnected(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                log.info("a client disconnected")
        finally:
            for task in (telling, sending, gone):
                task.cancel()
            results = await asyncio.gather(telling, sending, gone, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()

        def emit(event: str, data: Json) -> None:
            line = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
            with contextlib.suppress(RuntimeError):  # the event loop has ended, and the client with it
                loop.call_soon_threadsafe(self._queue.put_nowait, f"event: {event}\ndata: {line}\n\n".encode())

        try:
            emit(*await self._emit_found(emit))
        finally:
            loop.call_soon(self._queue.put_nowait, None)

    async def _send_all(self, send: Send) -> None:
        while True:
            try:
                event = await asyncio.wait_for(self._queue.get(), KEEP_ALIVE)
            except TimeoutError:
                event = b": keep-alive\n\n"
            if event is None:
                return await send({"type": "http.response.body", "body": b""})
            await send({"type": "http.response.body", "body": event, "more_body": True})
