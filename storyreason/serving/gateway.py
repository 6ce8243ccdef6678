"""The gateway: one address that stays the same while the engines behind it change."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, fields
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse, Response
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import Request
from starlette.routing import Route

from storyreason import runs
from storyreason.errors import GatewayError, RunError, StoryReasonError
from storyreason.generation.config import EngineConfig, GenerationConfig
from storyreason.generation.vllm import NAME
from storyreason.serving import errors, state
from storyreason.serving.budget import UNREAD_TIMEOUT
from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import BusyError, EnginePool
from storyreason.serving.metrics import CONTENT_TYPE, Metrics
from storyreason.serving.middleware import AccessMiddleware, cors
from storyreason.serving.passthrough import PassThrough
from storyreason.serving.routing import Access, RouteTable, declared, route
from storyreason.serving.stories import PageRoutes, StoryRoutes

log = logging.getLogger("storyreason.serving.gateway")  # also when run as a process, where `__name__` is `__main__`


class Deployment(BaseModel):
    """The body of `POST /admin/deploy`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = Field(min_length=1, description="An absolute model folder, or a model's name on the Hub.")
    version: str = Field(min_length=1, max_length=100, description="The version's name in answers and logs.")
    run_id: str | None = Field(default=None, description="The run that deploys it, for the record.")
    images: tuple[Base64Bytes, ...] = Field(
        default=(), description="Frames, in Base64, of a story that it must tell first."
    )
    generation: GenerationConfig = Field(default_factory=GenerationConfig, description="How it generates that story.")
    engine: EngineConfig | None = Field(default=None, description="Its engine's settings; empty: the gateway's own.")
    registered: str | None = Field(
        default=None, max_length=300, description="Its name in the registry, such as models:/storyteller/2."
    )


class Lease(BaseModel):
    """The body of `POST /admin/rest` and `/admin/wake`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    who: str = Field(min_length=1, max_length=300, description="For whom serving is suspended.")
    seconds: float = Field(
        default=60.0, gt=0, le=3600, description="Seconds after which serving resumes unless the lease is renewed."
    )


class AdminRoutes:
    """Health, metrics and administration."""

    def __init__(self, engines: EnginePool, metrics: Metrics, stopping: list[Callable[[], object]]) -> None:
        """`stopping` holds what `/admin/stop` calls, in order."""
        self.engines = engines
        self.metrics = metrics
        self.stopping = stopping

    @route("GET", "/healthz", Access.NOTHING, "Whether a model is being served, and which one; 503 if none is.")
    async def healthz(self) -> JSONResponse:
        healthy = self.engines.healthy()
        return JSONResponse({"healthy": healthy} | _served(self.engines), 200 if healthy else 503)

    @route("GET", "/metrics", Access.NOTHING, "Counters for Prometheus.")
    async def counted(self) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    @route(
        "GET",
        "/admin/status",
        Access.TOKEN,
        "The answer of `/healthz`, the engine's settings, requests in flight and a deployment in progress.",
    )
    async def status(self) -> dict[str, Any]:
        return {
            "healthy": self.engines.healthy(),
            **_served(self.engines),
            "requests": self.engines.requests,
            "deploying": self.engines.deploying,
            "engine": self.engines.settings.engine(),
        }

    @route(
        "POST",
        "/admin/deploy",
        Access.TOKEN,
        "Serve another model, after it has told a story; returns when it serves.",
        body=Deployment,
    )
    async def deploy(self, request: Request) -> dict[str, Any]:
        raw = await request.body()
        try:
            body = Deployment.model_validate_json(raw)
            deployed = await self.engines.deploy(
                body.folder, body.version, body.run_id, body.images, body.generation, body.engine, body.registered
            )
        except ValidationError as error:
            raise HTTPException(400, errors.fault(error)) from None
        except BusyError as error:
            raise HTTPException(409, str(error)) from None
        except GatewayError as error:
            raise HTTPException(502, str(error)) from None
        return {**asdict(deployed.served), "changed": deployed.changed, "story": deployed.story}

    @route("POST", "/admin/rest", Access.TOKEN, "Suspend serving for as long as this lease is renewed.", body=Lease)
    async def rest(self, lease: Lease) -> dict[str, Any]:
        try:
            await self.engines.suspend(lease.who, lease.seconds)
        except BusyError as error:
            raise HTTPException(409, str(error)) from None
        return {"resting": self.engines.suspended_for() is not None}

    @route("POST", "/admin/wake", Access.TOKEN, "Give a lease back; serving resumes after the last one.", body=Lease)
    async def wake(self, lease: Lease) -> dict[str, Any]:
        self.engines.resume(lease.who)
        return {"resting": self.engines.suspended_for() is not None}

    @route("POST", "/admin/stop", Access.TOKEN, "Stop the gateway and its engines.")
    async def stop(self) -> dict[str, Any]:
        for call in self.stopping:
            call()
        return {"stopping": True}


HANDLERS = (AdminRoutes, StoryRoutes, PageRoutes, PassThrough)
"""The classes with the routes, in matching order. `PassThrough` comes last: it takes the rest of `/v1`."""
ROUTES = tuple(one for kind in HANDLERS for one, _ in declared(kind))


def application(config: ServingConfig) -> tuple[FastAPI, list[Any]]:
    """The FastAPI application, and the list of what `/admin/stop` calls.

    Raises GatewayError or DataError for a state file or a gallery that cannot be read."""
    engines = EnginePool(config)
    pass_through = PassThrough(engines)
    stories = StoryRoutes(engines, config)
    metrics = Metrics(engines, [one.path for one in ROUTES if one.counted])
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
    table = _register(app, AdminRoutes(engines, metrics, stopping), stories, PageRoutes(config), pass_through)
    app.add_middleware(
        AccessMiddleware,
        config=config,
        table=table,
        token=state.token(config.gateway),
        keys=state.api_keys(config.gateway),
        metrics=metrics,
    )
    cors(app, config.allowed_origins)

    @app.exception_handler(AnyHTTPException)
    async def refused(_: Request, error: AnyHTTPException) -> JSONResponse:
        return errors.response(error.status_code, error.detail)

    return app, stopping


def _register(app: FastAPI, admin: AdminRoutes, *others: object) -> RouteTable:
    """Add the routes of `HANDLERS`. FastAPI parses the arguments of `admin`'s handlers; the others read their requests."""
    table = RouteTable()
    for one, name in declared(AdminRoutes):
        app.add_api_route(one.path, getattr(admin, name), methods=[one.method])
        table.add(app.router.routes[-1], one)
    for handlers in others:
        for one, name in declared(type(handlers)):
            handler: Any = handlers if name == "__call__" else getattr(handlers, name)
            served = Route(one.path, handler, methods=None if one.method == "*" else [one.method])
            app.router.routes.append(served)
            table.add(served, one)
    return table


def run(config: ServingConfig, first: state.Served | None = None) -> None:
    """Serve until stopped. `first` replaces the model that the state file names.

    Raises GatewayError if the port is taken, another gateway of this checkout is running, or it would be open to other
    machines by mistake.
    """
    import uvicorn

    from storyreason.serving.protocol import settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
    _check_access(config)
    sys.setswitchinterval(0.001)  # seconds; by default the event loop waits 5 ms for each thread that computes
    with _only_one(config.gateway), _listen(config) as listening:
        # Before anything else: until then, `down` would signal the process of the previous address.
        state.write_address(state.Address(os.getpid(), config.host, config.port), config.gateway)
        if first is not None:
            state.write_served(first, config.gateway)
        app, stopping = application(config)
        server = uvicorn.Server(settings(app, access_log=False, timeout_graceful_shutdown=5))
        stopping.append(lambda: setattr(server, "should_exit", True))
        log.info("listening on http://%s:%d", config.host, config.port)
        server.run(sockets=[listening])


def _check_access(config: ServingConfig) -> None:
    """Raise GatewayError if other machines could connect and nobody said who may."""
    if not (config.on_loopback or config.open or state.api_keys(config.gateway)):
        raise GatewayError(
            f"The gateway would listen on {config.host} without API keys, open to every machine that reaches it: put keys "
            f"in ${state.KEYS} or {state.folder(config.gateway) / 'api-keys'}, or set serving.open=true if that is what you want."
        )


def _served(engines: EnginePool) -> dict[str, Any]:
    served = asdict(engines.served) if engines.served else dict.fromkeys(one.name for one in fields(state.Served))
    return {
        **served,
        "model": NAME,
        "images": engines.settings.images_per_prompt,
        "problem": engines.suspended_for() or engines.problem,
    }


@contextlib.contextmanager
def _only_one(name: str) -> Any:
    lock = runs.lock(state.folder(name), wait=3)
    try:
        lock.__enter__()
    except RunError:
        running = state.address(name)
        where = f"process {running.pid} on port {running.port}" if running else "another process"
        raise GatewayError(
            f"A gateway of {runs.root()} is already running ({where}): use it, or stop it with `storyreason down`."
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
        # Inherited by connections. `protocol` times what is left in this process, and the system the rest of a response.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * UNREAD_TIMEOUT))
    try:
        listening.bind((config.host, config.port))
    except OSError as error:
        listening.close()
        raise GatewayError(
            f"The gateway cannot listen on {config.host}:{config.port} ({error.strerror}): stop what uses port "
            f"{config.port}, or choose another port with `--set serving.port=N`."
        ) from None
    return listening


if __name__ == "__main__":  # `python -m storyreason.serving.gateway '{"port": 8400}'`
    try:
        run(ServingConfig.model_validate_json(sys.argv[1]))
    except StoryReasonError as error:
        sys.exit(str(error))
