"""What a route of the gateway declares, and what its handlers share.

A route is a method of a class in `gateway.HANDLERS` under `@route(...)`. What has no declaration is not served: the door
answers 404 to every request that no declared route matches, before the application hears of it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

Method = Literal["GET", "POST", "*"]
"""`*`: any."""


class Access(StrEnum):
    """What a request must carry as `Authorization: Bearer ...`. The token is accepted wherever a key is."""

    NOTHING = "nothing"
    KEY = "key"  # an API key, if the gateway has any
    TOKEN = "token"


@dataclass(frozen=True, slots=True)
class Route:
    """One route, as it is declared. `body` is the model of the request's body, if the gateway reads it as one."""

    method: Method
    path: str
    access: Access
    summary: str
    body: type[BaseModel] | None
    counted: bool
    """Whether `/metrics` counts it under its own path; otherwise under `other`."""


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
) -> Callable[[Handler], Handler]:
    """Declare a handler's route. `counted` defaults to True for a path without parameters, of which there is only one."""
    one = Route(method, path, access, summary, body, "{" not in path if counted is None else counted)

    def declare(handler: Handler) -> Handler:
        setattr(handler, _DECLARED, (one, *getattr(handler, _DECLARED, ())))
        return handler

    return declare


def declared(kind: type) -> Iterator[tuple[Route, str]]:
    """The routes that a class declares, in order, each with the name of its handler."""
    for name, handler in vars(kind).items():
        for one in getattr(handler, _DECLARED, ()):
            yield one, name


class RouteTable:
    """The routes of an application with their declarations, to find the one that a request is for."""

    def __init__(self) -> None:
        self._routes: list[tuple[BaseRoute, Route]] = []

    def add(self, served: "BaseRoute", route: Route) -> None:
        """`served` is the route in the application's router; they are to be added in the router's order."""
        self._routes.append((served, route))

    def find(self, scope: Message) -> Route | None:
        """What Starlette's router would choose: the first route that matches, else the first of another method."""
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

_threads = ThreadPoolExecutor(4, thread_name_prefix="client")  # few: they take turns with the event loop


async def in_thread(work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
    """What `work` gives, worked out in a thread for clients' work.

    Starting and ending engines, in asyncio's own threads, never waits behind clients.
    """
    return await asyncio.get_running_loop().run_in_executor(_threads, lambda: work(*given, **named))


async def until_disconnected(receive: Receive) -> None:
    """Returns when the client has gone away; the request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
