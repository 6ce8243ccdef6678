"""The clients of a soak: patient ones, slow ones, those that vanish, and hostile ones. Each says how its request ended."""

import asyncio
import base64
import contextlib
import io
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import aiohttp
from PIL import Image

from benchmarks.soak.engine import story_of


class Ended(StrEnum):
    """How a request ended. Everything but the last is as it should be."""

    WHOLE = "whole"
    REFUSED = "refused by rule"
    CANCELLED = "cancelled by us"
    WRONG = "wrong"


@dataclass(frozen=True)
class Outcome:
    """`said` tells what went wrong, if anything did."""

    kind: str
    ended: Ended
    said: str = ""


def _picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 120, 150)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE = _picture()
KINDS = {"whole": 25, "stream": 30, "chat": 15, "read": 5, "vanish": 8, "vanish early": 3, "slow": 4, "hostile": 10}
"""How many of a hundred requests are of each kind."""
LINK = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/picture.png"}}
HOSTILE: tuple[tuple[str, Any], ...] = (
    ("/v1/stories", b"{"),
    ("/v1/stories", b"[" * 5000),
    ("/v1/stories", b"[],[]," * 100_000),
    ("/v1/stories", {"images": ["AAAA"]}),
    ("/v1/stories", {"images": [PICTURE] * 500}),
    ("/v1/stories", {"images": [PICTURE], "colour": "red"}),
    ("/v1/stories", {"images": [PICTURE], "model": "another"}),
    ("/v1/stories", {"images": [PICTURE], "max_tokens": 10**9}),
    ("/v1/stories", {"images": [PICTURE], "seed": "x" * 900_000}),
    ("/v1/stories", b"x" * 2**21),
    ("/v1/stories/read", {"answer": "<" + " " * 600_000}),
    ("/v1/chat/completions", {"model": "storyteller", "messages": [{"role": "user", "content": [LINK]}]}),
    ("/v1/chat/completions", {"model": "storyteller", "n": 10_000, "messages": []}),
    ("/v1/nothing", {}),
    ("/nothing", {}),
)
"""Requests that the gateway must refuse, as path and body."""


class Clients:
    """`send(n)` is the same request everywhere."""

    def __init__(self, url: str, seed: int) -> None:
        self.url, self.seed = url, seed
        # A connection for each request: what it leaves behind at the gateway would show.
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=aiohttp.ClientTimeout(total=300)
        )

    async def send(self, number: int) -> Outcome:
        chance = random.Random(f"{self.seed}-{number}")
        (kind,) = chance.choices(list(KINDS), weights=list(KINDS.values()))
        try:
            return Outcome(kind, *await getattr(self, "_" + kind.replace(" ", "_"))(chance))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError) as error:
            return Outcome(kind, Ended.WRONG, repr(error))

    async def _whole(self, chance: random.Random) -> tuple[Ended, str]:
        seed = chance.randrange(2**31)
        async with self.session.post(f"{self.url}/v1/stories", json=self._story(seed)) as response:
            return await _is_story(response, (await response.json()).get("answer"), seed)

    async def _stream(self, chance: random.Random, pause: float = 0) -> tuple[Ended, str]:
        seed = chance.randrange(2**31)
        async with self._live(seed) as response:
            shown, done = "", None
            async for event, data in _events(response):
                if event == "text":
                    shown = shown[: len(shown) - data.get("back", 0)] + data["text"]
                if event in ("done", "error"):
                    done = data
                await asyncio.sleep(pause)
            if done is None or shown != done.get("answer"):
                return Ended.WRONG, f"the events do not add up to the answer: {str(done)[:200]}"
            return await _is_story(response, shown, seed)

    async def _slow(self, chance: random.Random) -> tuple[Ended, str]:
        """Reads one event at a time, and the gateway has written the whole story long before."""
        return await self._stream(chance, pause=0.02)

    async def _chat(self, chance: random.Random) -> tuple[Ended, str]:
        seed = chance.randrange(2**31)
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
        body = {"model": "storyteller", "messages": [{"role": "user", "content": [picture]}], "seed": seed}
        if chance.random() < 0.3:
            async with self.session.post(f"{self.url}/v1/chat/completions", json=body) as response:
                told = (await response.json())["choices"][0]["message"]["content"]
                return await _is_story(response, told, seed)
        async with self.session.post(f"{self.url}/v1/chat/completions", json={**body, "stream": True}) as response:
            told = ""
            async for _, data in _events(response):
                for choice in data.get("choices", ()):
                    told += choice["delta"].get("content") or ""
            return await _is_story(response, told, seed)

    async def _read(self, chance: random.Random) -> tuple[Ended, str]:
        text = story_of(chance.randrange(2**31))
        async with self.session.post(f"{self.url}/v1/stories/read", json={"answer": text}) as response:
            same = response.status == 200 and (await response.json())["answer"] == text
            return (Ended.WHOLE, "") if same else (Ended.WRONG, f"{response.status}")

    async def _vanish(self, chance: random.Random) -> tuple[Ended, str]:
        """Leaves in the middle of a stream, or without waiting for an answer that is not streamed."""
        seed = chance.randrange(2**31)
        if chance.random() < 0.3:
            asking = self.session.post(f"{self.url}/v1/stories", json=self._story(seed))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.03 * chance.random()):
                    (await asking).close()
            return Ended.CANCELLED, ""
        leave = chance.randint(1, 30)
        async with self._live(seed) as response:
            async for _ in _events(response):
                leave -= 1
                if not leave:
                    break
            response.close()
        return Ended.CANCELLED, ""

    async def _vanish_early(self, chance: random.Random) -> tuple[Ended, str]:
        """Leaves while it sends its request, in the head or in the body."""
        body = json.dumps(self._story(1)).encode()
        head = f"POST /v1/stories HTTP/1.1\r\nHost: {self.url.removeprefix('http://')}\r\n"
        sent = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        host, _, port = self.url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent[: chance.randrange(1, len(sent))])
        await writer.drain()
        if chance.random() < 0.5:
            writer.transport.abort()  # a reset instead of an end
        writer.close()
        return Ended.CANCELLED, ""

    async def _hostile(self, chance: random.Random) -> tuple[Ended, str]:
        path, body = chance.choice(HOSTILE)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        try:
            async with self.session.post(self.url + path, data=io.BytesIO(data), headers=headers) as response:
                said = await response.text()
        except aiohttp.ClientOSError:
            if len(data) > 2**20:  # it refuses what is too large while that is still being sent
                return Ended.REFUSED, ""
            raise
        if 400 <= response.status < 500 and json.loads(said)["error"]["message"]:
            return Ended.REFUSED, ""
        return Ended.WRONG, f"{path} {str(body)[:60]}: {response.status} {said[:200]}"

    def _story(self, seed: int) -> dict[str, Any]:
        return {"images": [PICTURE], "decoding": "free", "seed": seed}

    def _live(self, seed: int) -> Any:
        headers = {"accept": "text/event-stream"}
        return self.session.post(f"{self.url}/v1/stories", json=self._story(seed), headers=headers)


async def _is_story(response: aiohttp.ClientResponse, told: str | None, seed: int) -> tuple[Ended, str]:
    if response.status == 200 and told == story_of(seed):
        return Ended.WHOLE, ""
    return Ended.WRONG, f"{response.status}, seed {seed}: {str(told)[:200]!r}"


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Server-sent events as name and JSON."""
    event, rest = "", b""
    async for part in response.content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"event: "):
                event = line[7:].decode().strip()
            elif line.startswith(b"data: {"):
                yield event, json.loads(line[6:])
