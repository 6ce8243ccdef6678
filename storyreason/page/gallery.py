"""A gallery of the story pages in a folder: the index for the web page, and single stories."""

import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storyreason.errors import DataError
from storyreason.page.html import thumbnail
from storyreason.scoring.catalogue import BOX_F1

log = logging.getLogger(__name__)

Json = dict[str, Any]

MOST_PAGES = 2000
"""Maximum pages of a gallery. A folder with more is probably the wrong one."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """One story: the page that it is from, and what the index shows of it."""

    page: Path
    entry: Json


class Gallery:
    """The stories of all pages below a folder; pages that are written later are found too.

    A page with several stories (from an evaluation) is a collection named after its title. Pages with one story each
    (from `storyreason page`) form a collection named after their folder. Other files are ignored, and a page that is
    damaged or from another version is left out with a warning in the log. A page that was removed is not listed any more.
    A story's address is its page's and its place there, so that it is the same after a restart.
    """

    def __init__(self, folder: Path, newest: int | None = None) -> None:
        """Show the `newest` of the pages that exist now; by default all of them.

        Raises DataError if the folder does not exist, or if it has too many pages to show all.
        """
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}: set serving.gallery to a folder with story pages, or to ''.")
        self._folder, self._newest = folder, newest
        pages = sum(1 for _ in folder.rglob("*.html"))
        if newest is None and pages > MOST_PAGES:
            raise DataError(f"{folder} has {pages} pages: set serving.gallery to a folder with at most {MOST_PAGES}.")
        self._lock = threading.Lock()
        self._seen: set[Path] = set()
        self._collections: dict[tuple[Path, str], list[_Shown]] = {}
        self._pages: dict[str, Path] = {}
        self.index()

    def index(self) -> Json:
        """What the web page lists: per collection its name, mean box F1 (null without scores) and stories.

        Reads the pages that are new since the last call, folder by folder, the one with the newest page first.
        """
        with self._lock:
            pages: dict[Path, float] = {}
            for path in self._folder.rglob("*.html"):
                with suppress(FileNotFoundError):  # `storyreason clean` removed it meanwhile
                    pages[path] = path.stat().st_mtime
            self._forget(self._seen - pages.keys())
            newest = sorted(pages.keys() - self._seen, key=lambda path: -pages[path])[: self._newest]
            folders = list(dict.fromkeys(path.parent for path in newest))
            for path in sorted(newest, key=lambda path: (folders.index(path.parent), path)):
                self._read(path)
            self._seen = set(pages)
            return {"collections": list(self._listed())}

    def _forget(self, gone: set[Path]) -> None:
        for place, stories in self._collections.items():
            self._collections[place] = [one for one in stories if one.page not in gone]

    def _listed(self) -> Iterator[Json]:
        """The collections that have stories."""
        names = [name for (_, name), stories in self._collections.items() if stories]
        for (place, name), stories in self._collections.items():
            if stories:
                yield {
                    # The work folder distinguishes several evaluations of the same role.
                    "name": f"{name} ({place.parent.name[:8]})" if names.count(name) > 1 else name,
                    "f1": _mean([one.entry["f1"] for one in stories]),
                    "stories": [one.entry for one in stories],
                }

    def _read(self, path: Path) -> None:
        content = _content(path)
        try:
            entries = [_entry(view) for view in content["views"]] if content else []
            several = len(entries) > 1
            name = _short(content["title"]) if content and several else path.parent.name
        except (LookupError, TypeError, AttributeError, DataError) as error:
            log.warning("%s is left out of the gallery: it is not a whole story page (%r)", path, error)
            return
        if entries:
            page = hashlib.sha256(str(path.relative_to(self._folder)).encode()).hexdigest()[:16]
            self._pages[page] = path
            collection = self._collections.setdefault((path if several else path.parent, name), [])
            collection += [_Shown(path, {"address": f"{page}/{place}", **entry}) for place, entry in enumerate(entries)]

    def story(self, page: str, place: int) -> Json | None:
        """The view of a story by the two parts of its address; None if there is none, or if its page was removed since."""
        path = self._pages.get(page)
        content = _content(path) if path else None
        views = content["views"] if content else []
        return views[place] if place < len(views) else None


def _mean(scores: list[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


def _content(path: Path) -> Json | None:
    """Title and views of a page written by `render`; None for any other file."""
    try:
        _, opening, rest = path.read_text(encoding="utf-8").partition('<script type="application/json" id="data">')
        data, closing, _ = rest.partition("</script>")
        content = json.loads(data) if opening and closing else None
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("views"), list) else None


def _short(title: str) -> str:
    """The title of an evaluation without the part that all titles share: "base, free"."""
    return re.sub(r": stories of the (\w+ )?split, (\w+) decoding$", r", \2", title)


def _entry(view: Json) -> Json:
    """What the index shows of a story and its first answer."""
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
