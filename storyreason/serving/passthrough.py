"""`/v1/*` as the engine gives it: every byte in both directions, streams as they come."""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from storyreason.errors import GatewayError
from storyreason.serving import limits
from storyreason.serving.engines import EnginePool, RunningEngine
from storyreason.serving.errors import RefusedError, openai_event
from storyreason.serving.routing import Access, Message, Receive, Send, in_thread, route, until_disconnected

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
}  # fmt: skip
"""Headers that belong to one connection (RFC 9110, section 7.6.1), not to the message."""
NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"authorization", b"expect"}
NOT_RETURNED = HOP_BY_HOP | {b"date", b"server"}
INLINE_BYTES = 2**16
"""Bytes of a body that is read sooner than a thread is asked to."""
MAX_ATTEMPTS = 3
"""How often a request is sent to engines that live and yet do not answer."""
MAX_ENGINES_LOST = 2
"""EnginePool that may end at one request: one that ends them all is not for a third."""


class PassThrough:
    """An ASGI application. A client that goes away ends its request at the engine too."""

    def __init__(self, engines: EnginePool) -> None:
        self.engines = engines
        self._opened: aiohttp.ClientSession | None = None

    @property
    def _client(self) -> "aiohttp.ClientSession":
        """aiohttp, whose parser is compiled: with httpx a chunk takes more than twice the CPU time."""
        import aiohttp

        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                # vLLM drops idle connections after 5 s, so leave them before it does.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2),
                # An answer takes as long as it takes.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("user-agent", "accept", "accept-encoding", "content-type"),
                auto_decompress=False,
            )
        return self._opened

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    @route("POST", "/tokenize", Access.KEY, "Count the tokens of a text.")  # grounded decoding counts with it
    @route("GET", "/v1/models", Access.KEY, "List the model that is served.")
    @route("POST", "/v1/chat/completions", Access.KEY, "OpenAI's chat completions.")
    @route("POST", "/v1/completions", Access.KEY, "OpenAI's completions.")
    @route("POST", "/v1/responses", Access.KEY, "OpenAI's responses.")
    @route("POST", "/v1/messages", Access.KEY, "Anthropic's messages.")
    @route("*", "/v1/{path:path}", Access.KEY, "Whatever else the engine has under this path.")
    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if scope["method"] == "POST":
            if len(body) < INLINE_BYTES:
                limits.check(body, self.engines.settings)
            else:
                await in_thread(limits.check, body, self.engines.settings)
        forward = asyncio.create_task(self._forward(scope, body, send))
        gone = asyncio.create_task(until_disconnected(receive))
        try:
            await asyncio.wait((forward, gone), return_when=asyncio.FIRST_COMPLETED)
            if not forward.done():
                log.info("a client went away")
        finally:
            # Cancelled or ended, both are waited for: the engine's count of requests is right when this returns.
            for task in (forward, gone):
                task.cancel()
            results = await asyncio.gather(forward, gone, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _forward(self, scope: Message, body: bytes, send: Send) -> None:
        failures = ended = 0
        while True:
            try:
                async with self.engines.engine() as engine:
                    if await self._answer(engine, scope, body, send):
                        return
                    lives = engine.server.alive()
                    failures, ended = failures + lives, ended + (not lives)
            except GatewayError as error:
                raise RefusedError(503, str(error)) from None
            if failures == MAX_ATTEMPTS:
                raise RefusedError(502, "The engine does not answer, though it runs: try again later.")
            if ended == MAX_ENGINES_LOST:
                raise engines_lost()
            await asyncio.sleep(0.2)

    async def _answer(self, engine: RunningEngine, scope: Message, body: bytes, send: Send) -> bool:
        """Whether the engine answered. False: not a byte came, so that the request can be sent again."""
        import aiohttp
        from yarl import URL

        query = scope["query_string"].decode("latin-1")
        path = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name not in NOT_FORWARDED
        ]
        url = URL(engine.server.url + path, encoded=True)
        try:
            response = await self._client.request(
                scope["method"], url, headers=headers, data=body or None, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError):
            return False
        # Leaving closes the connection unless the answer came to its end; the engine then ends its work.
        with contextlib.closing(response):
            try:
                # The status waits for the first byte: an engine that dies before it costs the client nothing.
                first = await response.content.readany()
            except (aiohttp.ClientError, OSError):
                return False
            if response.status >= 500 and not await still_running(engine):
                return False
            raw = [(name, value) for name, value in response.raw_headers if name.lower() not in NOT_RETURNED]
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
        """Tell the client of a stream that its engine died; leave any other answer incomplete, which clients notice."""
        sentence = "The engine ended in the middle of this answer: ask again."
        log.error("%s (%r)", sentence, error)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise GatewayError(sentence) from error
        await send({"type": "http.response.body", "body": openai_event(503, sentence)})


async def _body(receive: Receive) -> bytes:
    """The whole request; nothing of one whose client has gone."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def engines_lost() -> RefusedError:
    return RefusedError(
        502, f"{MAX_ENGINES_LOST} engines ended at this request, and no other is asked: change it, or try again later."
    )


async def still_running(engine: RunningEngine) -> bool:
    """Whether an engine that answered with a server error still runs: one whose core has died says so, then ends."""
    for _ in range(20):
        if not engine.server.alive():
            return False
        await asyncio.sleep(0.1)
    return True
