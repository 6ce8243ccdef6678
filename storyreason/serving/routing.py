"""What every route of the gateway declares, and what the handlers share.

A route is a method, decorated with `@route(...)`, of a class in `gateway.HANDLERS`. Undeclared routes are not served: the
middleware answers 404 to any request that matches no declared route, and the application never sees it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from pydantic import BaseModel

from storyreason.errors import StoryReasonError

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

Method = Literal["GET", "POST", "*"]
"""`*` stands for any method."""


class Access(StrEnum):
    """What a request must send as `Authorization: Bearer ...`. The token is accepted wherever a key is."""

    NOTHING = "nothing"
    KEY = "key"  # an API key, if the gateway has any
    TOKEN = "token"


@dataclass(frozen=True, slots=True)
class Route:
    """The declaration of a route. `body` is the model of the request's body, if the gateway has one."""

    method: Method
    path: str
    access: Access
    summary: str
    body: type[BaseModel] | None
    counted: bool
    """Whether `/metrics` counts it under its own path; otherwise as `other`."""
    copies: int
    """How often a request's body is in memory at a time, in one form or another."""


Handler = TypeVar("Handler", bound=Callable[..., Any])
_DECLARED = "__routes__"


def route(
    method: Method,
    path: str,
    access: Access,
    summary: str,
    *,
    body: type[BaseModel] | None = None,
    counted: bool | None = None,
    copies: int = 2,
) -> Callable[[Handler], Handler]:
    """Declare a handler's route. By default a path without parameters is `counted`; one with parameters never ends."""
    one = Route(method, path, access, summary, body, "{" not in path if counted is None else counted, copies)

    def declare(handler: Handler) -> Handler:
        setattr(handler, _DECLARED, (one, *getattr(handler, _DECLARED, ())))
        return handler

    return declare


def declared(kind: type) -> Iterator[tuple[Route, str]]:
    """The routes that a class declares, in order, each with its handler's name."""
    for name, handler in vars(kind).items():
        for one in getattr(handler, _DECLARED, ()):
            yield one, name


class RouteTable:
    """The routes of an application with their declarations; finds the one for a request."""

    def __init__(self) -> None:
        self._routes: list[tuple[BaseRoute, Route]] = []

    def add(self, served: "BaseRoute", route: Route) -> None:
        """`served` is the route in the application's router. Add routes in the router's order."""
        self._routes.append((served, route))

    def find(self, scope: Message) -> Route | None:
        """The route that Starlette's router would choose: the first that matches, else the first with another method."""
        from starlette.routing import Match

        other = None
        for served, route in self._routes:
            match, _ = served.matches(scope)
            if match is Match.FULL:
                return route
            if match is Match.PARTIAL and other is None:
                other = route
        return other


Given = ParamSpec("Given")
Result = TypeVar("Result")

_threads = ThreadPoolExecutor(4, thread_name_prefix="client")  # few, since they compete with the event loop


async def in_thread(work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
    """Run `work` in a thread reserved for clients' requests.

    Engines are started and stopped in asyncio's own threads, so that they never wait for clients.
    """
    return await asyncio.get_running_loop().run_in_executor(_threads, lambda: work(*given, **named))


class ClientGoneError(Exception):
    """The client disconnected before it had its response. Nobody sees it: the middleware counts it as 499."""


async def unless_gone(work: Coroutine[Any, Any, Result], receive: Receive) -> Result:
    """The result of `work`, which is cancelled and awaited if the client disconnects first; then raises ClientGoneError.

    The request's body must have been read before. When this returns, `work` holds nothing any more.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_until_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        left = not task.done()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.wait((task, gone))
    # What was cancelled may fail in its own way: a request whose connection was closed, for example.
    if left and (task.cancelled() or isinstance(task.exception(), StoryReasonError)):
        raise ClientGoneError
    return task.result()


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
