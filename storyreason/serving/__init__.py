"""The gateway: one address in front of the engines that serve a model."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storyreason.serving.routing import Route


def routes() -> "tuple[Route, ...]":
    """The declarations of the gateway's routes, in matching order. Starts nothing."""
    from storyreason.serving.gateway import ROUTES

    return ROUTES
