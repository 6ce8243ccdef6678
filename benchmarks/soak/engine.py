"""A scripted engine on several ports: it answers as vLLM does, with a text that the request's seed determines.

python -m benchmarks.soak.engine 8001 8002
"""

import asyncio
import json
import random
import sys
from itertools import pairwise

from aiohttp import web

from storyreason.format.tables import CHARACTERS

PAUSE = 0.002
"""Longest pause between two chunks, in seconds."""
WORDS = ("the quay", "a lamp", "waited", "灯台", "line\u2028separator", "ünï", "and then", "🙂", "a | b", "<", "Mara's")
"""Words of a story; JSON leaves them as they are."""


def story_of(seed: int) -> str:
    """What the engine answers a request with this seed: an analysis and a story of 300 to 6,000 characters."""
    chance = random.Random(seed)
    rows = "\n".join(
        f"| char{n} | Zoe{n} | a | b | c | d | {n},{n},{n + 5},{n + 6} |" for n in range(1, chance.randint(2, 9))
    )
    told = " ".join(chance.choices(WORDS, k=chance.randint(5, 600)))
    story = f"<gdi image1>\n<gdo char1>Zoe</gdo> {told}\n</gdi>"
    return f"<think>\n## Image 1\n\n{CHARACTERS.top}\n{rows}\n</think>\n{story}"


class Engine:
    """Counts what it does: `GET /counts` tells."""

    def __init__(self) -> None:
        self.begun = self.whole = self.aborted = 0

    def application(self) -> web.Application:
        app = web.Application(client_max_size=2**28)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self.complete),
                web.get("/v1/models", self.models),
                web.get("/counts", self.counts),
                web.route("*", "/{path:.*}", self.nothing),
            ]
        )
        return app

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "storyteller", "max_model_len": 8192}]})

    async def counts(self, _: web.Request) -> web.Response:
        return web.json_response({"begun": self.begun, "whole": self.whole, "aborted": self.aborted})

    async def nothing(self, _: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "Not Found", "code": 404}}, status=404)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.begun += 1
        try:
            answer = await self._answer(request)
        except BaseException:
            self.aborted += 1
            raise
        self.whole += 1
        return answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        text, chance = story_of(asked.get("seed", 0)), random.Random(asked.get("seed", 0))
        cuts = [0, *sorted(chance.sample(range(1, len(text)), len(text) // 40)), len(text)]
        pieces = [text[start:end] for start, end in pairwise(cuts)]
        usage = {"prompt_tokens": 7, "completion_tokens": len(pieces)}
        if not asked.get("stream"):
            await asyncio.sleep(PAUSE * len(pieces) / 2)
            message = {"role": "assistant", "content": text}
            return web.json_response(
                {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
            )
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
            await response.write(f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\n\n".encode())
            await asyncio.sleep(chance.random() * PAUSE)
        for last in (
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": usage},
        ):
            await response.write(f"data: {json.dumps(last)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


async def main(ports: list[int]) -> None:
    engine = Engine()
    runner = web.AppRunner(engine.application(), handler_cancellation=True)
    await runner.setup()
    for port in ports:
        await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main([int(port) for port in sys.argv[1:]]))
