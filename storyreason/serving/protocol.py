"""uvicorn with limits on the time and size of a request's head, which it does not have itself."""

import asyncio
import functools
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_TIMEOUT = 20.0
"""Seconds in which a request's head must arrive, from the start of the connection or the previous response."""
MAX_HEAD = 2**16
"""Bytes."""


def settings(app: Any, head_timeout: float = HEAD_TIMEOUT, **more: Any) -> uvicorn.Config:
    """uvicorn's configuration for a gateway's application."""
    protocol: Any = functools.partial(Protocol, head_timeout=head_timeout)
    return uvicorn.Config(app, http=protocol, ws="none", log_config=None, lifespan="on", **more)


class Protocol(HttpToolsProtocol):
    """One connection. The limits of bodies are in `middleware`."""

    def __init__(self, *args: Any, head_timeout: float, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head_timeout = head_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._head = 0  # bytes of this request's target and headers
        self._unparsed = 0  # bytes since the parser's last event: it buffers a header without an end

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unparsed = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        another = bool(self.pipeline)
        super().on_response_complete()
        # uvicorn's own keep-alive timeout ends with the first byte, whatever it is.
        if not another and not self.transport.is_closing():
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        too_large = max(self._head, self._unparsed) > MAX_HEAD
        super().send_400_response(f"The head of a request may have {MAX_HEAD} bytes at most." if too_large else msg)

    def _count(self, size: int) -> None:
        self._unparsed = 0
        self._head += size
        if self._head > MAX_HEAD:
            raise ValueError  # uvicorn answers 400 and closes

    def _await_head(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(self._head_timeout, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
