"""Who may come in, with how much, how many at a time: what every request meets before the gateway reads of it."""

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
"""Headers of every answer: a browser believes the type it is told, shows it in no frame, and tells no one the address."""


class AccessMiddleware:
    """An ASGI middleware. It lets through what a declared route matches, with what that route asks for, and nothing else.

    Whoever has the token or a key is known by comparing all of them in constant time.
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
                if visit.status is not None:  # it has begun to answer, so that there is nothing left to say
                    raise
                await refuse(answering, refusal)
            finally:
                self._at_work -= working

    def _admit(self, method: str, access: Access, headers: dict[str, str]) -> bool:
        """Whether it is work, of which there is only so much at a time. Raises RefusedError."""
        self._check_browser(headers)
        known = self._known(headers.get("authorization", ""))
        if access is Access.TOKEN and known != "administrator":
            raise RefusedError(401, "This needs the token of runs/gateway/token, as `Authorization: Bearer <token>`.")
        if access is not Access.KEY:
            return False
        if self._keys and known is None:
            raise RefusedError(
                401, "This needs an API key, as `Authorization: Bearer <key>`.", www_authenticate="Bearer"
            )
        length = headers.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,18}", length) or int(length) > _most(self._config):
            raise _too_large(self._config)
        working = method == "POST" or _has_body(headers)
        if working and self._at_work >= self._config.max_requests:
            raise RefusedError(
                429,
                f"{self._at_work} requests are being answered, and no more at a time (serving.max_requests): try again "
                f"in {RETRY_AFTER} seconds.",
                retry_after=str(RETRY_AFTER),
            )
        return working

    def _check_browser(self, headers: dict[str, str]) -> None:
        """A page from elsewhere that a browser shows must not reach this port, unless it is on the list.

        Asking whether an answer can be read is the browser's part; a request does its work even when it cannot. And a
        name of somebody else's that leads to this machine makes the page look as if it came from here.
        """
        origin = headers.get("origin", "")
        try:
            host, place = urlsplit(f"//{headers.get('host', '')}").hostname, urlsplit(origin).netloc
        except ValueError:
            raise RefusedError(400, "The Host or the Origin of this request is no address.") from None
        if self._config.host in LOOPBACK and host not in self._hosts:
            raise RefusedError(
                403,
                "This gateway listens for this machine alone: ask it as 127.0.0.1, or add to serving.allowed_origins.",
            )
        if origin and origin not in self._config.allowed_origins and place != headers.get("host"):
            raise RefusedError(
                403, f"Pages of {origin[:100]!r} may not use this gateway: add it to serving.allowed_origins."
            )

    def _known(self, authorization: str) -> str | None:
        """`administrator`, `user`, or None. Compares with everything there is, whatever was found before."""
        shown = authorization.removeprefix("Bearer ").encode()
        found = None
        for key in self._keys:
            found = "user" if hmac.compare_digest(shown, key) else found
        return "administrator" if hmac.compare_digest(shown, self._token) else found


def _access(path: str, route: Route | None) -> Access:
    """What is asked for before an answer. Where nothing is, that is said to anyone; under `/admin` with the token alone."""
    if route is not None:
        return route.access
    return Access.TOKEN if path.startswith("/admin") else Access.NOTHING


class _Body:
    """The body of a request as the application receives it, while it is not too much and does not take too long."""

    def __init__(self, receive: Receive, headers: dict[str, str], config: ServingConfig) -> None:
        self._receive = receive
        self._config = config
        self._deadline = asyncio.get_running_loop().time() + config.body_timeout
        self._size = 0
        self.whole = not _has_body(headers)
        """Whether all of it was received."""

    async def __call__(self) -> Message:
        if self.whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            seconds = f"{self._config.body_timeout:g} s"
            raise RefusedError(408, f"The request did not arrive within {seconds} (serving.body_timeout).") from None
        self._size += len(message.get("body", b""))
        if self._size > _most(self._config):
            raise _too_large(self._config)
        self.whole = not message.get("more_body")
        return message


def _has_body(headers: dict[str, str]) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _most(config: ServingConfig) -> int:
    """Bytes of a body at most."""
    return config.max_body_mb * 2**20


def _too_large(config: ServingConfig) -> RefusedError:
    return RefusedError(413, f"The request is larger than {config.max_body_mb} MiB (serving.max_body_mb).")


def _answering(send: Send, visit: TrackedRequest, body: _Body) -> Send:
    async def answering(message: Message) -> None:
        if message["type"] == "http.response.start":
            visit.response_started(message["status"], message["headers"])
            message["headers"] = [*message["headers"], *SECURITY]
            if not body.whole:  # or who goes on sending holds the connection for ever
                message["headers"].append((b"connection", b"close"))
        else:
            visit.body_sent(message.get("body", b""))
        await send(message)

    return answering


def cors(app: Any, origins: tuple[str, ...]) -> None:
    """Let pages of these origins read the answers."""
    from starlette.middleware.cors import CORSMiddleware

    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "accept"],
        )
