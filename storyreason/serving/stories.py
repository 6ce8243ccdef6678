"""`/v1/stories`: images in, a checked grounded story out; `/v1/stories/read`: check an existing text. And the web page."""

import asyncio
import contextlib
import functools
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storyreason import runs
from storyreason.errors import EngineAwayError, EngineError, StoryReasonError
from storyreason.generation import answering
from storyreason.generation.config import GenerationConfig
from storyreason.generation.openai import Chunk, OnChunk, Stop
from storyreason.generation.vllm import NAME
from storyreason.page.gallery import Gallery
from storyreason.page.web import headers, web
from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import EnginePool, RunningEngine
from storyreason.serving.errors import RefusedError, body_of, response, response_of
from storyreason.serving.live import EventStream, Json, Outbox, StoryEvents
from storyreason.serving.passthrough import MAX_ENGINES_LOST, engines_lost, may_be_lost, still_running
from storyreason.serving.requests import ReadRequest, StoryRequest
from storyreason.serving.routing import Access, in_thread, route, unless_gone
from storyreason.serving.workers import settings_of, workers

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)


NEWEST_EVALUATIONS = 24
"""Pages of evaluations that the gallery shows when the gateway starts; a retraining makes two for each model."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a story: its fields without the images, the images' (width, height) in pixels, and the images."""

    fields: Json
    sizes: list[tuple[int, int]]
    images: list[bytes]


_computing = threading.Semaphore(2)


class StoryRoutes:
    """The handlers for stories. They fetch nothing that a request names and write nothing of it to disk."""

    def __init__(self, engines: EnginePool, config: ServingConfig) -> None:
        self.engines = engines
        self._threads = ThreadPoolExecutor(config.max_requests, thread_name_prefix="story")

    @route(
        "POST",
        "/v1/stories",
        Access.KEY,
        "Tell a grounded story of images; streamed if `text/event-stream` is accepted.",
        body=StoryRequest,
        copies=6,  # the images, the request to the engine as objects, text and bytes, and the response with its view
    )
    async def tell(self, request: "Request") -> "Response | EventStream":
        """A story as JSON, or as server-sent events if the client accepts them. Closing the connection cancels it."""
        try:
            asked = await unless_gone(self._asked(await request.body()), request.receive)
        except StoryReasonError as error:
            return response_of(error)
        if "text/event-stream" in request.headers.get("accept", ""):
            return EventStream(functools.partial(self._tell_live, asked))
        return await unless_gone(self._tell_whole(asked), request.receive)

    @route(
        "POST",
        "/v1/stories/read",
        Access.KEY,
        "Read and check an existing answer; needs no model.",
        body=ReadRequest,
        copies=4,
    )
    async def read(self, request: "Request") -> "Response":
        given = {"settings": settings_of(self.engines.settings)}
        try:
            _, (found,) = await unless_gone(workers.do("read", given, await request.body()), request.receive)
        except StoryReasonError as error:
            return response_of(error)
        return _json_response(found)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _asked(self, body: bytes) -> Asked:
        found, images = await workers.do("story", {"settings": settings_of(self.engines.settings)}, body)
        asked = Asked(found["asked"], [tuple(size) for size in found["sizes"]], images)
        if asked.fields["model"] not in (None, NAME):
            raise RefusedError(404, f"There is no model {asked.fields['model']!r}: use {NAME!r}, or leave it out.")
        if (asked.fields["max_tokens"] or 0) > (most := self.engines.settings.max_model_len):
            raise RefusedError(400, f"max_tokens: {most} at most (serving.max_model_len).")
        return asked

    async def _tell_whole(self, asked: Asked) -> "Response":
        try:
            return _json_response(await self._story(asked, None))
        except StoryReasonError as error:
            return response_of(error)

    async def _tell_live(self, asked: Asked, outbox: Outbox) -> tuple[str, Json | bytes]:
        try:
            return "done", await self._story(asked, outbox)
        except StoryReasonError as error:
            return "error", body_of(error)

    async def _story(self, asked: Asked, outbox: Outbox | None) -> bytes:
        """The response to a request, as JSON. One engine answers all of its stages, even if another takes over meanwhile.

        If the engine dies before anything was sent to the client, its successor gets the request.
        """
        wanted = {name: value for name, value in asked.fields.items() if name != "model" and value is not None}
        emitted, ended = False, 0

        def emit(event: str, data: Json) -> None:
            nonlocal emitted
            emitted = True
            if outbox is not None:
                outbox.put(event, data)

        while True:
            async with self.engines.engine() as engine:
                served = self.engines.served
                version = served.version if served else None
                config = GenerationConfig(**{**(served.prompt if served else {}), **wanted})
                on_chunk = None
                if outbox is not None:
                    on_chunk = _in_turn(StoryEvents(asked.sizes, emit, keeps_up=outbox.keeps_up), outbox)
                try:
                    told = await self._request(engine, asked.images, config, on_chunk)
                    break
                except EngineError as error:
                    most = may_be_lost(engine) if isinstance(error, EngineAwayError) else MAX_ENGINES_LOST
                    if emitted or await still_running(engine):
                        raise
                    ended += 1
                    if ended == most:
                        raise engines_lost() from error
                    log.warning("%s Retrying with its successor.", error)
        given = {"version": version, "cut": told.cut, "mended": told.mended}
        _, (found,) = await workers.do("reading", given, told.answer.encode(), *asked.images)
        return found

    async def _request(
        self, engine: RunningEngine, images: list[bytes], config: GenerationConfig, on_chunk: OnChunk | None
    ) -> answering.Prediction:
        """Ask the engine in a thread, which is stopped and awaited if this is cancelled."""
        stop = Stop()
        ask = functools.partial(
            answering.answer_to, engine.server.url, engine.server.name, "story", images, config,
            on_chunk=on_chunk, stop=stop,
        )  # fmt: skip
        work = asyncio.get_running_loop().run_in_executor(self._threads, ask)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            with contextlib.suppress(StoryReasonError):
                await work
            raise


class PageRoutes:
    """The web page at `/` and its gallery. No path in a request reaches the disk.

    The page is built once; the gallery is that of the folder `serving.gallery`, by default of the evaluations in runs/.
    """

    def __init__(self, config: ServingConfig) -> None:
        """Raises DataError if the gallery's folder does not exist."""
        self._page, self._headers = web(), headers()
        self._gallery: Gallery | None = None
        if config.gallery is None:
            evaluations = runs.root() / "evaluate"
            evaluations.mkdir(exist_ok=True)
            self._gallery = Gallery(evaluations, newest=NEWEST_EVALUATIONS)
        elif config.gallery:
            self._gallery = Gallery(Path(config.gallery))
        if self._gallery is not None:
            collections = self._gallery.index()["collections"]
            log.info("gallery: %d stories", sum(len(one["stories"]) for one in collections))

    @route("GET", "/", Access.NOTHING, "The web page.")
    async def page(self, _: "Request") -> "Response":
        from starlette.responses import HTMLResponse

        return HTMLResponse(self._page, headers=self._headers)

    @route("GET", "/v1/stories/gallery", Access.KEY, "List the gallery's stories.", counted=False)
    async def index(self, _: "Request") -> "Response":
        from starlette.responses import JSONResponse

        return JSONResponse(await in_thread(self._gallery.index) if self._gallery else {"collections": []})

    @route(
        "GET",
        "/v1/stories/gallery/{place:path}",
        Access.KEY,
        "One of the gallery's stories, by the address that the list gives it.",
    )
    async def story(self, request: "Request") -> "Response":
        """One view, by its page and its place there: `9f86d081884c7d65/3`."""
        from starlette.responses import JSONResponse

        place = re.fullmatch("([0-9a-f]{16})/([0-9]{1,6})", request.path_params["place"])
        view = None
        if place and self._gallery is not None:
            view = await in_thread(self._gallery.story, place[1], int(place[2]))
        if view is None:
            return response(
                404, "The gallery has no such story: GET /v1/stories/gallery lists them with their addresses."
            )
        return JSONResponse(view)


def _in_turn(live: StoryEvents, outbox: Outbox) -> OnChunk:
    """Feed chunks to `live`, a few stories at a time: the event loop competes with every thread that computes."""

    def feed(chunk: Chunk) -> None:
        outbox.wait()
        with _computing:
            live.feed(chunk)

    return feed


def _json_response(content: bytes) -> "Response":
    from starlette.responses import Response

    return Response(content, media_type="application/json")
