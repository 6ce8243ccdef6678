"""Access, size and concurrency limits: the checks that every request passes before the application sees it."""

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from storyreason.serving.config import ServingConfig
from storyreason.serving.errors import RefusedError, refuse, response
from storyreason.serving.metrics import Metrics, TrackedRequest
from storyreason.serving.routing import Access, Message, Receive, Route, RouteTable, Send

App = Callable[[Message, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
RETRY_AFTER = 5
"""Seconds."""
SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
"""Headers of every response: no content sniffing, no framing, no referrer."""


class AccessMiddleware:
    """ASGI middleware that passes on only requests that match a declared route and show what that route asks for.

    The token and the keys are compared in constant time.
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
        self._at_work = 0
        self._hosts = {*LOOPBACK, config.host, *(urlsplit(one).hostname for one in config.allowed_origins)}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        with self._metrics.visit(scope["path"]) as visit:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            body = _Body(receive, headers, self._config)
            answering = _answering(send, visit, body)
            route, working = self._table.find(scope), False
            try:
                working = self._admit(scope["method"], _access(scope["path"], route), headers)
                self._at_work += working
                await (self._app if route else response(404, "Not Found"))(scope, body, answering)
            except RefusedError as refusal:
                if visit.status is not None:  # the response has started, so it is too late for another status
                    raise
                await refuse(answering, refusal)
            finally:
                self._at_work -= working

    def _admit(self, method: str, access: Access, headers: dict[str, str]) -> bool:
        """Whether the request counts towards `serving.max_requests`. Raises RefusedError."""
        self._check_browser(headers)
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

    def _check_browser(self, headers: dict[str, str]) -> None:
        """Refuse requests that a browser makes for another site's page, unless its origin is allowed.

        CORS is not enough: it keeps a page from reading the response, but the request has been carried out by then. The
        check of `Host` stops DNS rebinding, where a foreign host name resolves to this machine.
        """
        origin = headers.get("origin", "")
        try:
            host, place = urlsplit(f"//{headers.get('host', '')}").hostname, urlsplit(origin).netloc
        except ValueError:
            raise RefusedError(400, "The Host or Origin header of this request is not an address.") from None
        if self._config.host in LOOPBACK and host not in self._hosts:
            raise RefusedError(
                403,
                "This gateway serves this machine only: use 127.0.0.1 as its host, or set serving.allowed_origins.",
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


class _Body:
    """The body of a request as the application receives it. Raises RefusedError if it is too large or too slow."""

    def __init__(self, receive: Receive, headers: dict[str, str], config: ServingConfig) -> None:
        self._receive = receive
        self._config = config
        self._deadline = asyncio.get_running_loop().time() + config.body_timeout
        self._size = 0
        self.whole = not _has_body(headers)
        """Whether the whole body was received."""

    async def __call__(self) -> Message:
        if self.whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            seconds = f"{self._config.body_timeout:g} s"
            raise RefusedError(
                408, f"The request's body did not arrive within {seconds} (serving.body_timeout)."
            ) from None
        self._size += len(message.get("body", b""))
        if self._size > _most(self._config):
            raise _too_large(self._config)
        self.whole = not message.get("more_body")
        return message


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
        await send(message)

    return answering


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
