"""The gateway: one address that never changes before engines that do."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from storyreason import runs
from storyreason.errors import GatewayError, RunError
from storyreason.generation.config import EngineConfig, GenerationConfig
from storyreason.generation.vllm import NAME
from storyreason.serving import state
from storyreason.serving.config import ServingConfig
from storyreason.serving.door import Door, cors
from storyreason.serving.engines import BusyError, Engines
from storyreason.serving.metrics import CONTENT_TYPE, Metrics
from storyreason.serving.passthrough import PassThrough
from storyreason.serving.stories import Stories, fault
from storyreason.serving.web import Web

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)

UNREAD_TIMEOUT_MS = 120_000


class Deployment(BaseModel):
    """The body of `POST /admin/deploy`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = Field(min_length=1, description="The model folder, absolute, or a model's name on the Hub.")
    version: str = Field(min_length=1, max_length=100, description="What this model is called in answers and logs.")
    run_id: str | None = Field(default=None, description="The run that asks for it, for the record.")
    images: tuple[Base64Bytes, ...] = Field(default=(), description="Frames of a story that it must tell first.")
    generation: GenerationConfig = Field(default_factory=GenerationConfig, description="How it tells that story.")
    engine: EngineConfig | None = Field(default=None, description="Its engine's settings; without: the gateway's own.")


class Lease(BaseModel):
    """The body of `POST /admin/rest` and `/admin/wake`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    who: str = Field(min_length=1, max_length=300, description="For whom the gateway gives way.")
    seconds: float = Field(
        default=60.0, gt=0, le=3600, description="Without being asked again so long, it serves again."
    )


def run(config: ServingConfig, first: state.Served | None = None) -> None:
    """Serve until stopped; `first` is served instead of what the state file names.

    Raises GatewayError when the port is taken or another gateway of this checkout runs.
    """
    import uvicorn

    from storyreason.serving.protocol import settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it names every request
    with _only_one(), _listen(config) as listening:
        # First of all: until this is there, `down` signals the process of the address before.
        state.write_address(state.Address(os.getpid(), config.host, config.port))
        if first is not None:
            state.write_served(first)
        app, stopping = application(config)
        server = uvicorn.Server(settings(app, access_log=False, timeout_graceful_shutdown=5))
        stopping.append(lambda: setattr(server, "should_exit", True))
        log.info("listening on http://%s:%d", config.host, config.port)
        server.run(sockets=[listening])


def application(config: ServingConfig) -> "tuple[FastAPI, list[Any]]":
    """The FastAPI application, and the list of what `/admin/stop` calls."""
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import JSONResponse, Response
    from starlette.exceptions import HTTPException as AnyHTTPException
    from starlette.requests import Request
    from starlette.routing import Route

    engines = Engines(config)
    pass_through = PassThrough(engines)
    stories = Stories(engines, config)
    metrics = Metrics(engines)
    stopping: list[Any] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        keeper = asyncio.create_task(engines.keep())
        try:
            yield
        finally:
            keeper.cancel()
            await engines.stop()
            stories.close()
            await pass_through.close()

    app = FastAPI(
        title="storyreason gateway",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.engines = engines
    app.add_middleware(Door, config=config, token=state.token(), keys=state.api_keys(), metrics=metrics)
    cors(app, config.allowed_origins)

    @app.exception_handler(AnyHTTPException)
    async def refused(_: Request, error: AnyHTTPException) -> JSONResponse:
        return JSONResponse({"error": {"message": error.detail, "code": error.status_code}}, error.status_code)

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        healthy = engines.healthy()
        return JSONResponse({"healthy": healthy} | _served(engines), 200 if healthy else 503)

    @app.get("/metrics")
    async def counted() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/admin/status")
    async def status() -> dict[str, Any]:
        return {
            "healthy": engines.healthy(),
            **_served(engines),
            "requests": engines.requests,
            "deploying": engines.deploying,
            "engine": engines.settings.engine(),
        }

    @app.post("/admin/deploy")
    async def deploy(request: Request) -> dict[str, Any]:
        raw = await request.body()
        try:
            body = Deployment.model_validate_json(raw)
            deployed = await engines.deploy(
                body.folder, body.version, body.run_id, body.images, body.generation, body.engine
            )
        except ValidationError as error:
            raise HTTPException(400, fault(error)) from None
        except BusyError as error:
            raise HTTPException(409, str(error)) from None
        except GatewayError as error:
            raise HTTPException(502, str(error)) from None
        return {**asdict(deployed.served), "changed": deployed.changed, "story": deployed.story}

    @app.post("/admin/rest")
    async def rest(lease: Lease) -> dict[str, Any]:
        try:
            await engines.rest(lease.who, lease.seconds)
        except BusyError as error:
            raise HTTPException(409, str(error)) from None
        return {"resting": engines.gives_way() is not None}

    @app.post("/admin/wake")
    async def wake(lease: Lease) -> dict[str, Any]:
        engines.wake(lease.who)
        return {"resting": engines.gives_way() is not None}

    @app.post("/admin/stop")
    async def stop() -> dict[str, Any]:
        for call in stopping:
            call()
        return {"stopping": True}

    app.router.routes.append(Route("/v1/stories", stories.tell, methods=["POST"]))
    app.router.routes.append(Route("/v1/stories/read", stories.read, methods=["POST"]))
    pages = Web(config)
    app.router.routes.append(Route("/", pages.page))
    app.router.routes.append(Route("/v1/stories/gallery", pages.index))
    app.router.routes.append(Route("/v1/stories/gallery/{place:path}", pages.story))
    app.router.routes.append(Route("/tokenize", pass_through, methods=["POST"]))  # grounded decoding counts with it
    app.router.routes.append(Route("/v1/{path:path}", pass_through, methods=None))
    return app, stopping


def _served(engines: Engines) -> dict[str, Any]:
    served = asdict(engines.served) if engines.served else dict.fromkeys(one.name for one in fields(state.Served))
    return {**served, "model": NAME, "problem": engines.gives_way() or engines.problem}


@contextlib.contextmanager
def _only_one() -> Any:
    lock = runs.lock(state.folder(), wait=3)
    try:
        lock.__enter__()
    except RunError:
        running = state.address()
        where = f"process {running.pid} on port {running.port}" if running else "another process"
        raise GatewayError(
            f"A gateway of {runs.root()} runs already ({where}): use it, or stop it with `storyreason down`."
        ) from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _listen(config: ServingConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Connections inherit it: who takes nothing of an answer for so long holds neither its memory nor its place.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_TIMEOUT_MS)
    try:
        listening.bind((config.host, config.port))
    except OSError as error:
        listening.close()
        raise GatewayError(
            f"The gateway cannot listen on {config.host}:{config.port} ({error.strerror}): end what uses port "
            f"{config.port}, or choose another port with `--set serving.port=N`."
        ) from None
    return listening
