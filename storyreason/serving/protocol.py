"""uvicorn with limits that it does not have itself (connections, a head's time and size, clients that do not read), and an
unhurried close."""

import asyncio
import functools
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from storyreason.serving.budget import HEAD_TIMEOUT, LINGER, MAX_HEAD, UNREAD_TIMEOUT, max_connections


def settings(
    app: Any,
    head_timeout: float = HEAD_TIMEOUT,
    unread_timeout: float = UNREAD_TIMEOUT,
    most_connections: int | None = None,
    **more: Any,
) -> uvicorn.Config:
    """uvicorn's configuration for a gateway's application.

    Not uvloop: it accepts one connection in each round of its loop, so that among 200 clients that send at full speed the
    next one waits for seconds.
    """
    protocol: Any = functools.partial(
        Protocol,
        head_timeout=head_timeout,
        unread_timeout=unread_timeout,
        most_connections=max_connections() if most_connections is None else most_connections,
    )
    return uvicorn.Config(app, http=protocol, ws="none", loop="asyncio", log_config=None, lifespan="on", **more)


class Protocol(HttpToolsProtocol):
    """One connection. The limits of bodies are in `middleware`."""

    def __init__(
        self, *args: Any, head_timeout: float, unread_timeout: float, most_connections: int, **named: Any
    ) -> None:
        super().__init__(*args, **named)
        self._most_connections = most_connections
        self._head_timeout = head_timeout
        self._unread_timeout = unread_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._head = 0  # bytes of this request's target and headers
        self._unparsed = 0  # bytes since the parser's last event: it buffers a header without an end
        self._closing = self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        unhurried: Any = Unhurried(transport, self)
        super().connection_made(unhurried)
        if len(self.connections) > self._most_connections:
            transport.abort()
        else:
            self._await_head()

    def closes_early(self) -> bool:
        """Whether the client may still be sending: a body that was not received whole, or a head that was refused."""
        self._closing = True
        return self._refused or (self.cycle is not None and self.cycle.more_body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._has_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        # Not `close`, which would first wait until everything is sent.
        self._unread = self.loop.call_later(self._unread_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        self._has_read()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
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
        self._refused = True
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

    def _has_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


class Unhurried:
    """A connection whose `close` lets a client that is still sending read its answer first.

    Closed at once, it would be reset by what the client sends next, and many clients then give up before they read.
    """

    def __init__(self, transport: asyncio.Transport, protocol: Protocol) -> None:
        self._transport = transport
        self._protocol = protocol
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._timer is not None or self._transport.is_closing()

    def close(self) -> None:
        early = self._protocol.closes_early()
        if self._timer is not None:  # a second time: nothing is left to wait for
            self._timer.cancel()
            self._transport.close()
        elif early and not self.is_closing() and self._transport.can_write_eof():
            self._timer = self._protocol.loop.call_later(LINGER, self._transport.close)
            self._transport.write_eof()
            self._transport.resume_reading()  # what comes is dropped, until the client closes, too
        else:
            self._transport.close()
