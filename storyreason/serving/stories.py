"""`/v1/stories`: images in, a checked grounded story out; `/v1/stories/read`: check an existing text. And the web page."""

import asyncio
import contextlib
import functools
import logging
import re
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, model_validator
from pydantic_core import from_json

from storyreason import runs
from storyreason.errors import EngineError, StoryReasonError
from storyreason.format import answer as answers
from storyreason.generation import answering
from storyreason.generation.config import Decoding, GenerationConfig
from storyreason.generation.openai import Stop
from storyreason.generation.vllm import NAME
from storyreason.page.gallery import Gallery
from storyreason.page.web import headers, web
from storyreason.pictures import size as picture_size
from storyreason.serving import limits
from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import EnginePool, RunningEngine
from storyreason.serving.errors import RefusedError, body_of, response, response_of
from storyreason.serving.live import Emit, EventStream, Json, StoryEvents
from storyreason.serving.passthrough import MAX_ENGINES_LOST, engines_lost, still_running
from storyreason.serving.routing import Access, in_thread, route, until_disconnected

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response

log = logging.getLogger(__name__)

MAX_CHARACTERS = 500_000
"""Characters of a text to read, at most: many times the length of a model's answer."""
MAX_FIELDS = 20
"""Fields of a body, at most. Each unknown field would be an error of its own."""

NEWEST_EVALUATIONS = 24
"""Pages of evaluations that the gallery shows when the gateway starts; a retraining makes two for each model."""

Images = Annotated[tuple[str, ...], FailFast(), Field(max_length=10_000)]
"""Fails at the first fault: there may be millions."""


class StoryRequest(BaseModel):
    """The body of `POST /v1/stories`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Images = Field(min_length=1, description="The frames in order, as data URLs or plain Base64.")
    request: str | None = Field(
        default=None,
        max_length=4000,
        description="The user's request; by default the one that the model was scored with.",
    )
    model: str | None = Field(
        default=None, max_length=300, description="One of GET /v1/models; by default the served model."
    )
    decoding: Decoding = Field(
        default="grounded", description="grounded: grammars keep the answer valid; free: no constraint."
    )
    temperature: float = Field(default=0.0, ge=0, le=2, description="0 always takes the likeliest token.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed for sampling.")
    max_tokens: int | None = Field(
        default=None, ge=1, description="Longest answer in tokens; by default what the engine's context leaves."
    )


class ReadRequest(BaseModel):
    """The body of `POST /v1/stories/read`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: str | None = Field(
        default=None, max_length=MAX_CHARACTERS, description="Analysis and story, from `<think>` to the last `</gdi>`."
    )
    analysis: str | None = Field(
        default=None, max_length=MAX_CHARACTERS, description="Instead of `answer`: the analysis, without `<think>`."
    )
    story: str | None = Field(default=None, max_length=MAX_CHARACTERS, description="Instead of `answer`: the story.")
    images: Images = Field(default=(), description="The frames, to check boxes against and to show.")

    @model_validator(mode="after")
    def _one_or_both(self) -> "ReadRequest":
        if (self.answer is None) == (self.analysis is None or self.story is None):
            raise ValueError("send `answer`, or both `analysis` and `story`")
        return self

    @property
    def whole(self) -> str:
        """The answer, in whichever form it was sent."""
        if self.answer is not None:
            return self.answer
        return answers.join(*(str(part).strip("\r\n") for part in (self.analysis, self.story)))


Body = TypeVar("Body", StoryRequest, ReadRequest)


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
    )
    async def tell(self, request: "Request") -> "JSONResponse | EventStream":
        """A story as JSON, or as server-sent events if the client accepts them. Closing the connection cancels it."""
        try:
            asked = await in_thread(_parsed, StoryRequest, await request.body())
            if asked.model not in (None, NAME):
                raise RefusedError(404, f"There is no model {asked.model!r}: use {NAME!r}, or leave it out.")
            if (asked.max_tokens or 0) > (most := self.engines.settings.max_model_len):
                raise RefusedError(400, f"max_tokens: {most} at most (serving.max_model_len).")
            images = await in_thread(limits.decoded, asked.images, self.engines.settings)
        except (StoryReasonError, ValidationError) as error:
            return response_of(error)
        if "text/event-stream" in request.headers.get("accept", ""):
            return EventStream(functools.partial(self._tell_live, asked, images))
        return await _cancel_if_gone(request, self._tell_whole(asked, images))

    @route(
        "POST", "/v1/stories/read", Access.KEY, "Read and check an existing answer; needs no model.", body=ReadRequest
    )
    async def read(self, request: "Request") -> "JSONResponse":
        from starlette.responses import JSONResponse

        try:
            text = await in_thread(_parsed, ReadRequest, await request.body())
            images = await in_thread(limits.decoded, text.images, self.engines.settings)
        except (StoryReasonError, ValidationError) as error:
            return response_of(error)
        read = await in_thread(_reading, text.whole, images)
        return JSONResponse({"answer": text.whole, **read})

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _tell_whole(self, asked: StoryRequest, images: list[bytes]) -> "JSONResponse":
        from starlette.responses import JSONResponse

        try:
            return JSONResponse(await self._story(asked, images, None))
        except StoryReasonError as error:
            return response_of(error)

    async def _tell_live(self, asked: StoryRequest, images: list[bytes], emit: Emit) -> tuple[str, Json]:
        try:
            return "done", await self._story(asked, images, emit)
        except StoryReasonError as error:
            return "error", body_of(error)

    async def _story(self, asked: StoryRequest, images: list[bytes], emit: Emit | None) -> Json:
        """The response to a request. One engine answers all of its stages, even if another takes over meanwhile.

        If the engine dies before anything was sent to the client, its successor gets the request.
        """
        wanted = asked.model_dump(exclude={"images", "model"}, exclude_none=True)
        emitted, ended = False, 0

        def emit_and_note(event: str, data: Json) -> None:
            nonlocal emitted
            emitted = True
            if emit is not None:
                emit(event, data)

        while True:
            async with self.engines.engine() as engine:
                served = self.engines.served
                version = served.version if served else None
                config = GenerationConfig(**{**(served.prompt if served else {}), **wanted})
                live = None if emit is None else StoryEvents([picture_size(image) for image in images], emit_and_note)
                try:
                    told = await self._request(engine, images, config, live)
                    break
                except EngineError as error:
                    if emitted or await still_running(engine):
                        raise
                    ended += 1
                    if ended == MAX_ENGINES_LOST:
                        raise engines_lost() from error
                    log.warning("%s Retrying with its successor.", error)
        read = await in_thread(lambda: _reading(live.whole(told.answer) if live else told.answer, images))
        return {"answer": told.answer, "version": version, "cut": told.cut, "mended": told.mended, **read}

    async def _request(
        self, engine: RunningEngine, images: list[bytes], config: GenerationConfig, live: StoryEvents | None
    ) -> answering.Prediction:
        """Ask the engine in a thread, which is stopped and awaited if this is cancelled."""
        stop = Stop()
        ask = functools.partial(
            answering.answer_to, engine.server.url, engine.server.name, "story", images, config,
            on_chunk=None if live is None else live.feed, stop=stop,
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
        "One of the gallery's stories: collection and number, such as `0/3`.",
    )
    async def story(self, request: "Request") -> "Response":
        """One view, by the number of its collection and its number there: `0/3`."""
        from starlette.responses import JSONResponse

        place = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", request.path_params["place"])
        view = None
        if place and self._gallery is not None:
            view = await in_thread(self._gallery.story, int(place[1]), int(place[2]))
        if view is None:
            sentence = "The gallery has no such story: GET /v1/stories/gallery lists them; the first is /v1/stories/gallery/0/0."
            return response(404, sentence)
        return JSONResponse(view)


def _parsed(kind: type[Body], body: bytes) -> Body:
    """Parse the body of a request. Raises RefusedError, or ValidationError with few errors."""
    try:
        fields = from_json(body)
    except ValueError as error:
        raise RefusedError(400, f"the body: Invalid JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise RefusedError(400, "the body: Input should be an object.")
    if len(fields) > MAX_FIELDS:
        raise RefusedError(400, f"The body has {len(fields)} fields: send only {', '.join(kind.model_fields)}.")
    return kind.model_validate(fields)


def _reading(answer: str | answers.Answer, images: list[bytes]) -> dict[str, Any]:
    """What the page shows of an answer (`page.view`), and which rules it breaks."""
    from storyreason import page

    view = page.view("story", images, answer)
    (shown,) = view["answers"]
    problems = [{name: value for name, value in one.items() if name != "wanted"} for one in shown["problems"]]
    return {"valid": shown["valid"], "problems": problems, "view": view}


async def _cancel_if_gone(request: "Request", telling: "Coroutine[Any, Any, JSONResponse]") -> "JSONResponse":
    """The result of `telling`, which is cancelled and awaited if the client disconnects."""
    task = asyncio.create_task(telling)
    gone = asyncio.create_task(until_disconnected(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
        await asyncio.wait((task, gone))
    return response(499, "The client disconnected.") if task.cancelled() else task.result()
