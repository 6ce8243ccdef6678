"""Access, size and concurrency limits: the checks that every request passes before the application sees it."""

import asyncio
import hmac
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from storyreason.serving.budget import RETRY_AFTER, SLICE, Memory, Share, Turns
from storyreason.serving.config import LOOPBACK, ServingConfig
from storyreason.serving.errors import RefusedError, refuse, response
from storyreason.serving.metrics import Metrics, TrackedRequest
from storyreason.serving.routing import Access, ClientGoneError, Message, Receive, Route, RouteTable, Send

log = logging.getLogger(__name__)

App = Callable[[Message, Receive, Send], Awaitable[None]]

SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
"""Headers of every response: no content sniffing, no framing, no referrer."""


class AccessMiddleware:
    """ASGI middleware that passes on only requests that match a declared route and show what that route asks for.

    It reads the whole body before the application sees the request, within the limits of size, time and memory. The token
    and the keys are compared in constant time.
    """

    def __init__(
        self, app: App, config: ServingConfig, table: RouteTable, token: str, keys: tuple[str, ...], metrics: Metrics
    ) -> None:
        self._app = app
        self._table = table
        self._config = config
        self._token = token.encode()
        self._keys = tuple(key.encode() for key in keys)
        self._metrics = metrics
        self._memory = Memory(config.max_memory_mb * 2**20)
        self._turns = Turns()
        self._at_work = 0
        origins = (urlsplit(one).hostname for one in config.allowed_origins)
        self._hosts = {*LOOPBACK, config.host, *config.allowed_hosts, *origins}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        with self._metrics.visit(scope["path"]) as visit, self._memory.share() as share:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            body = _Body(receive, headers, self._config)
            answering = _answering(send, visit, body)
            route, working = self._table.find(scope), False
            try:
                access = _access(scope["path"], route)
                working = self._admit(scope["method"], access, headers, host_matters=scope["path"] != "/healthz")
                self._at_work += working
                if route is None:
                    return await response(404, "Not Found")(scope, receive, answering)
                if access is not Access.NOTHING:
                    await body.read(share, route.copies, self._turns)
                await self._app(scope, body, answering)
            except RefusedError as refusal:
                if visit.status is not None:  # the response has started, so it is too late for another status
                    raise
                await refuse(answering, refusal)
            except ClientGoneError:
                log.info("a client disconnected")
            finally:
                self._at_work -= working

    def _admit(self, method: str, access: Access, headers: dict[str, str], host_matters: bool) -> bool:
        """Whether the request counts towards `serving.max_requests`. Raises RefusedError."""
        self._check_browser(headers, host_matters)
        known = self._known(headers.get("authorization", ""))
        if access is Access.TOKEN and known != "administrator":
            raise RefusedError(
                401, "This route needs the token in runs/gateway/token: send `Authorization: Bearer <token>`."
            )
        if access is not Access.KEY:
            return False
        if self._keys and known is None:
            raise RefusedError(
                401, "This route needs an API key: send `Authorization: Bearer <key>`.", www_authenticate="Bearer"
            )
        length = headers.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,18}", length) or int(length) > _most(self._config):
            raise _too_large(self._config)
        working = method == "POST" or _has_body(headers)
        if working and self._at_work >= self._config.max_requests:
            raise RefusedError(
                429,
                f"The gateway is answering {self._at_work} requests, which is the limit (serving.max_requests): try again "
                f"in {RETRY_AFTER} seconds.",
                retry_after=str(RETRY_AFTER),
            )
        return working

    def _check_browser(self, headers: dict[str, str], host_matters: bool) -> None:
        """Refuse requests that a browser makes for another site's page, unless its origin is allowed.

        CORS is not enough: it keeps a page from reading the response, but the request has been carried out by then. The
        check of `Host` stops DNS rebinding, where a foreign host name resolves to this machine. Probes use whatever name
        they like, and `/healthz` tells them nothing else.
        """
        origin = headers.get("origin", "")
        try:
            host, place = urlsplit(f"//{headers.get('host', '')}").hostname or "", urlsplit(origin).netloc
        except ValueError:
            raise RefusedError(400, "The Host or Origin header of this request is not an address.") from None
        if self._config.on_loopback:
            if host not in self._hosts:
                raise RefusedError(
                    403,
                    "This gateway serves this machine only: use 127.0.0.1 as its host, or set serving.allowed_origins.",
                )
        elif host_matters and host not in self._hosts and not _is_address(host):
            raise RefusedError(
                403,
                f"This gateway is not known as {host[:100]!r}: add the name to serving.allowed_hosts, or use its address.",
            )
        if origin and origin not in self._config.allowed_origins and place != headers.get("host"):
            raise RefusedError(
                403, f"Pages of {origin[:100]!r} may not use this gateway: add the origin to serving.allowed_origins."
            )

    def _known(self, authorization: str) -> str | None:
        """`administrator`, `user`, or None. Compares with every secret, even after a match."""
        shown = authorization.removeprefix("Bearer ").encode()
        found = None
        for key in self._keys:
            found = "user" if hmac.compare_digest(shown, key) else found
        return "administrator" if hmac.compare_digest(shown, self._token) else found


def _access(path: str, route: Route | None) -> Access:
    """What the request must show. A path without a route is answered to anyone, under `/admin` only with the token."""
    if route is not None:
        return route.access
    return Access.TOKEN if path.startswith("/admin") else Access.NOTHING


def _is_address(host: str) -> bool:
    """Whether it is an IP address: no name that resolves to another machine tomorrow."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _Body:
    """The body of a request, as the application receives it: in one piece, then that the client disconnected."""

    def __init__(self, receive: Receive, headers: dict[str, str], config: ServingConfig) -> None:
        self._receive = receive
        self._config = config
        self._body: bytes | None = None
        self.whole = not _has_body(headers)
        """Whether the whole body was received."""

    async def read(self, share: Share, copies: int, turns: Turns) -> None:
        """Receive all of it; each byte takes `copies` of `share`.

        Raises RefusedError if it is too large or too slow, and ClientGoneError if the client leaves meanwhile.
        """
        body = bytearray()  # not a list: a client may send single bytes
        try:
            async with asyncio.timeout(self._config.body_timeout):
                while not self.whole:
                    await turns.take()
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    part = message.get("body", b"")
                    if len(body) + len(part) > _most(self._config):
                        raise _too_large(self._config)
                    share.take(copies * len(part))
                    body += part
                    self.whole = not message.get("more_body")
        except TimeoutError:
            seconds = f"{self._config.body_timeout:g} s"
            raise RefusedError(
                408, f"The request's body did not arrive within {seconds} (serving.body_timeout)."
            ) from None
        self._body = bytes(body)

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None  # not kept here: the handler drops what it has read
        return {"type": "http.request", "body": body, "more_body": False}


def _has_body(headers: dict[str, str]) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _most(config: ServingConfig) -> int:
    """Largest body in bytes."""
    return config.max_body_mb * 2**20


def _too_large(config: ServingConfig) -> RefusedError:
    return RefusedError(413, f"The request is larger than {config.max_body_mb} MiB (serving.max_body_mb).")


def _answering(send: Send, visit: TrackedRequest, body: _Body) -> Send:
    async def answering(message: Message) -> None:
        if message["type"] == "http.response.start":
            visit.response_started(message["status"], message["headers"])
            message["headers"] = [*message["headers"], *SECURITY]
            if not body.whole:  # otherwise a client that goes on sending would hold the connection forever
                message["headers"].append((b"connection", b"close"))
        else:
            visit.body_sent(message.get("body", b""))
            await _in_slices(message, send)
            return
        await send(message)

    return answering


async def _in_slices(message: Message, send: Send) -> None:
    """Send a part of a body so that at most `SLICE` bytes of it wait for a client that reads slowly."""
    body = message.get("body", b"")
    while len(body) > SLICE:
        await send({**message, "body": body[:SLICE], "more_body": True})
        body = memoryview(body)[SLICE:]
    await send({**message, "body": bytes(body)})


def cors(app: Any, origins: tuple[str, ...]) -> None:
    """Allow pages of these origins to read responses."""
    from starlette.middleware.cors import CORSMiddleware

    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "accept"],
        )
