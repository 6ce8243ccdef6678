"""The gateway: one address before the engines that serve a model."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storyreason.serving.routing import Route


def routes() -> "tuple[Route, ...]":
    """Every route of the gateway in the order in which they are matched, as they are declared; nothing is started."""
    from storyreason.serving.gateway import ROUTES

    return ROUTES
