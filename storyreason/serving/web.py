"""The gateway's page at `/`, and the gallery that it shows. No path from a request touches the disk."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from storyreason.page.gallery import Gallery
from storyreason.page.web import headers, web
from storyreason.serving.config import ServingConfig
from storyreason.serving.threads import in_thread

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)


class Web:
    """The handlers. The page is made once; the gallery's index too, from the folder that `serving.gallery` names."""

    def __init__(self, config: ServingConfig) -> None:
        """Raises DataError when the gallery's folder is not there."""
        self._page, self._headers = web(), headers()
        self._gallery = Gallery(Path(config.gallery)) if config.gallery else None
        if self._gallery is not None:
            collections = self._gallery.index["collections"]
            log.info("gallery: %d stories", sum(len(one["stories"]) for one in collections))

    async def page(self, _: "Request") -> "Response":
        from starlette.responses import HTMLResponse

        return HTMLResponse(self._page, headers=self._headers)

    async def index(self, _: "Request") -> "Response":
        from starlette.responses import JSONResponse

        return JSONResponse(self._gallery.index if self._gallery else {"collections": []})

    async def story(self, request: "Request") -> "Response":
        """One view, by the numbers of its collection and its place there: `0/3`."""
        from starlette.responses import JSONResponse

        place = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", request.path_params["place"])
        view = None
        if place and self._gallery is not None:
            view = await in_thread(self._gallery.story, int(place[1]), int(place[2]))
        if view is None:
            sentence = "The gallery has no such story: take one of GET /v1/stories/gallery, as /v1/stories/gallery/0/0."
            return JSONResponse({"error": {"message": sentence, "code": 404}}, 404)
        return JSONResponse(view)
