"""Story pages that lie in a folder, as a gallery: what the web page lists, and one story's view."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storyreason.errors import DataError
from storyreason.page.html import thumbnail
from storyreason.scoring.catalogue import BOX_F1

Json = dict[str, Any]

MOST_PAGES = 2000
"""Of one gallery; a folder with more is not the one that was meant."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A story of a page: where the page lies, and the story's place in it."""

    page: Path
    place: int


class Gallery:
    """The stories of all pages below a folder, as they were when it was opened.

    A page of several stories (an evaluation's) is a collection by its title; the pages of one story in a folder
    (`storyreason page`) are one by the folder's name. Other files are left alone.
    """

    def __init__(self, folder: Path) -> None:
        """Raises DataError when there is no such folder, or far too many pages in it."""
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}: set serving.gallery to a folder of story pages, or to ''.")
        pages = sorted(folder.rglob("*.html"))
        if len(pages) > MOST_PAGES:
            raise DataError(
                f"{folder} holds {len(pages)} pages: set serving.gallery to a folder of {MOST_PAGES} at most."
            )
        found: dict[tuple[Path, str], list[tuple[_Shown, Json]]] = defaultdict(list)
        for path in pages:
            content = _content(path)
            views = content["views"] if content else []
            name = _short(content["title"]) if content and len(views) > 1 else path.parent.name
            for place, view in enumerate(views):
                found[path if len(views) > 1 else path.parent, name].append((_Shown(path, place), _entry(view)))
        names = [name for _, name in found]
        self._stories = [[shown for shown, _ in stories] for stories in found.values()]
        self.index: Json = {
            "collections": [
                {
                    # Two evaluations of one role are told apart by their work folders.
                    "name": f"{name} ({place.parent.name[:8]})" if names.count(name) > 1 else name,
                    "stories": [{"number": number, **entry} for number, (_, entry) in enumerate(stories)],
                }
                for (place, name), stories in found.items()
            ]
        }

    def story(self, collection: int, number: int) -> Json | None:
        """The view of a story of the index, or None when the index has none there or its page has gone since."""
        if not (0 <= collection < len(self._stories) and 0 <= number < len(self._stories[collection])):
            return None
        shown = self._stories[collection][number]
        content = _content(shown.page)
        views = content["views"] if content else []
        return views[shown.place] if shown.place < len(views) else None


_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def _content(path: Path) -> Json | None:
    """Title and views of a page that `render` made; None of any other file."""
    try:
        data = _DATA.search(path.read_text(encoding="utf-8"))
        content = json.loads(data[1]) if data else None
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("views"), list) else None


def _short(title: str) -> str:
    """An evaluation's title without what all have in common: "base, free"."""
    return re.sub(r": stories of the (\w+ )?split, (\w+) decoding$", r", \2", title)


def _entry(view: Json) -> Json:
    """What the shelf shows of a story, and of its first answer."""
    answer = view["answers"][0]
    scores = answer["scores"]
    return {
        "id": view["id"],
        "images": len(view["images"]),
        "entities": len(answer["entities"]),
        "errors": sum(problem["severity"] == "error" for problem in answer["problems"]),
        "f1": scores.get(BOX_F1),
        "thumbnail": thumbnail(view["images"][0]["src"]) if view["images"] else None,
    }
