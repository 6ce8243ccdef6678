"""`/v1/*` passed through to the engine: bodies unchanged in both directions but for odd pictures, streams as they arrive."""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from storyreason.errors import GatewayError
from storyreason.generation.vllm import NAME
from storyreason.serving import limits
from storyreason.serving.budget import SLICE
from storyreason.serving.engines import EnginePool, RunningEngine
from storyreason.serving.errors import RefusedError, openai_event
from storyreason.serving.external import ExternalEngine
from storyreason.serving.routing import Access, Message, Receive, Send, route, unless_gone
from storyreason.serving.workers import settings_of, workers

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
}  # fmt: skip
"""Hop-by-hop headers (RFC 9110, section 7.6.1): they belong to a connection, not to the message."""
NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"authorization", b"expect"}
NOT_RETURNED = HOP_BY_HOP | {b"date", b"server"}
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""Characters that no header's value may have (RFC 9110, section 5.5)."""
INLINE_BYTES = 2**13
"""Bodies smaller than this many bytes are checked faster than a process is reached, a picture in them included."""
MAX_ATTEMPTS = 3
"""How often a request is sent to engines that are running but do not answer."""
MAX_ENGINES_LOST = 2
"""How many engines may die during one request. It is not sent to another: it may be the cause."""
MAX_TIMES_AWAY = 4
"""How often one request may find an engine away that somebody else runs: while it is rolled, its old process refuses first,
and then nothing listens."""


class PassThrough:
    """An ASGI application. Closing the connection cancels the request at the engine, too."""

    def __init__(self, engines: EnginePool) -> None:
        self.engines = engines
        self._opened: aiohttp.ClientSession | None = None

    @property
    def _client(self) -> "aiohttp.ClientSession":
        """aiohttp, because its parser is compiled: with httpx a chunk takes more than twice the CPU time."""
        import aiohttp

        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                # vLLM closes idle connections after 5 s; close them first.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2),
                # No total limit: answers may take long.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("user-agent", "accept", "accept-encoding", "content-type"),
                auto_decompress=False,
            )
        return self._opened

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    @route(
        "POST", "/tokenize", Access.KEY, "Count the tokens of a text (vLLM's interface)."
    )  # grounded decoding needs it
    @route("GET", "/v1/models", Access.KEY, "List the served model (OpenAI's interface).")
    @route("POST", "/v1/chat/completions", Access.KEY, "Chat completions (OpenAI's interface).")
    @route("POST", "/v1/completions", Access.KEY, "Completions (OpenAI's interface).")
    @route("POST", "/v1/responses", Access.KEY, "Responses (OpenAI's interface).")
    @route("POST", "/v1/messages", Access.KEY, "Messages (Anthropic's interface).")
    @route("*", "/v1/{path:path}", Access.KEY, "Anything else that the engine serves.")
    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if "lora_adapter" in scope["path"]:  # who may ask for stories may not change what tells them
            raise RefusedError(404, "The gateway does not pass this on: deploy with `storyreason deploy`.")
        body: bytes = (await receive())["body"]  # the middleware has all of it
        await unless_gone(self._checked(scope, body, send), receive)

    async def _checked(self, scope: Message, body: bytes, send: Send) -> None:
        if body or scope["method"] == "POST":
            if len(body) < INLINE_BYTES and not may_have_pictures(body):
                body = limits.check(body, self.engines.settings)
            else:
                _, changed = await workers.do("check", {"settings": settings_of(self.engines.settings)}, body)
                body = changed[0] if changed else body
        await self._forward(scope, body, send)

    async def _forward(self, scope: Message, body: bytes, send: Send) -> None:
        failures = ended = 0
        while True:
            try:
                async with self.engines.engine() as engine:
                    if await self._answer(engine, scope, body, send):
                        return
                    most = may_be_lost(engine)
                    lives = engine.server.alive()
                    failures, ended = failures + lives, ended + (not lives)
            except RefusedError:
                raise
            except GatewayError as error:
                raise RefusedError(503, str(error)) from None
            if failures == MAX_ATTEMPTS:
                raise RefusedError(502, "The engine is running but does not answer: try again later.")
            if ended == most:
                raise engines_lost()
            await asyncio.sleep(0.2)

    async def _answer(self, engine: RunningEngine, scope: Message, body: bytes, send: Send) -> bool:
        """Whether the engine answered. If not, no byte reached the client and the request can be sent again."""
        import aiohttp
        from yarl import URL

        if body and engine.server.name != NAME:
            body = await _renamed(body, engine.server.name)
        query = scope["query_string"].decode("latin-1")
        path = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name not in NOT_FORWARDED
        ]
        if body:
            headers.append(("content-length", str(len(body))))
        if isinstance(engine.server, ExternalEngine):  # the next request goes where its address then leads: a new pod
            headers.append(("connection", "close"))
        url = URL(engine.server.url + path, encoded=True)
        try:
            response = await self._client.request(
                scope["method"], url, headers=headers, data=_in_slices(body), allow_redirects=False
            )
        except (aiohttp.ClientError, OSError):
            return False
        if engine.server.name != NAME and scope["path"] == "/v1/models" and response.status == 200:
            return await _send_models(response, send)
        # Leaving the block closes an unfinished connection, which makes the engine abort the request.
        with contextlib.closing(response):
            try:
                # The status is sent with the first byte: if the engine dies before, the request can be sent again.
                first = await response.content.readany()
            except (aiohttp.ClientError, OSError):
                return False
            if response.status == 503 and isinstance(engine.server, ExternalEngine):
                return False  # it is ending, as when it is rolled
            if response.status >= 500 and not await still_running(engine):
                return False
            raw = [(name, value) for name, value in response.raw_headers if name.lower() not in NOT_RETURNED]
            if not 200 <= response.status < 600 or any(CONTROL.search(value) for _, value in raw):
                return False  # no answer that HTTP knows, and none that uvicorn would send
            await send({"type": "http.response.start", "status": response.status, "headers": raw})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            try:
                async for chunk in response.content.iter_any():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except (aiohttp.ClientError, OSError) as error:
                await self._break_off(response, error, send)
                return True
            await send({"type": "http.response.body", "body": b""})
        return True

    async def _break_off(self, response: "aiohttp.ClientResponse", error: Exception, send: Send) -> None:
        """End a stream with an error event; leave any other response incomplete, which clients notice."""
        sentence = "The engine died in the middle of this answer: send the request again."
        log.error("%s (%r)", sentence, error)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise GatewayError(sentence) from error
        await send({"type": "http.response.body", "body": openai_event(503, sentence)})


async def _renamed(body: bytes, name: str) -> bytes:
    """The body for an engine that calls the served model `name`: an adapter, by the name of its version."""
    if len(body) < INLINE_BYTES:
        return limits.renamed(body, NAME, name)
    _, (renamed,) = await workers.do("rename", {"ours": NAME, "theirs": name}, body)
    return renamed


async def _send_models(response: "aiohttp.ClientResponse", send: Send) -> bool:
    """Answer with the served model alone, by its usual name, where the engine lists a base and its adapters."""
    import aiohttp

    try:
        listed = json.loads(await response.read())
    except (aiohttp.ClientError, OSError, ValueError):
        return False
    bases = [one | {"id": NAME} for one in listed["data"] if one.get("parent") is None]
    body = json.dumps(listed | {"data": bases}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return True


def may_have_pictures(body: bytes) -> bool:
    """Whether a body may contain pictures, however their `data` is escaped: one of 60 KB may take a second to decode."""
    return b"data" in body or b"\\u" in body


def _in_slices(body: bytes) -> bytes | AsyncIterator[bytes] | None:
    """A large body in pieces, so that sending it neither copies it nor keeps the event loop busy."""

    async def slices() -> AsyncIterator[bytes]:
        for start in range(0, len(body), SLICE):
            yield body[start : start + SLICE]

    return slices() if len(body) > SLICE else body or None


def may_be_lost(engine: RunningEngine) -> int:
    """How many engines a request may lose, after it has lost this one; one that somebody else runs counts as down from now on."""
    if not isinstance(engine.server, ExternalEngine):
        return MAX_ENGINES_LOST
    engine.server.away()
    return MAX_TIMES_AWAY


def engines_lost() -> RefusedError:
    return RefusedError(
        502,
        f"{MAX_ENGINES_LOST} engines died during this request, so it is not sent to another: change it, or try again "
        "later.",
    )


async def still_running(engine: RunningEngine) -> bool:
    """Whether an engine that answered with a server error is still running two seconds later.

    One whose core has died answers so, then exits.
    """
    if isinstance(engine.server, ExternalEngine):
        await asyncio.to_thread(engine.server.look)
        return engine.server.alive()
    for _ in range(20):
        if not engine.server.alive():
            return False
        await asyncio.sleep(0.1)
    return True
