"""A folder of story pages as a gallery."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from storyreason import page
from storyreason.errors import DataError
from storyreason.page.gallery import Gallery
from tests.storyreason.page.conftest import Told


def shown(gallery: Gallery, address: str) -> dict[str, Any] | None:
    page_, place = address.split("/")
    return gallery.story(page_, int(place))


@pytest.fixture
def folder(told: Told, tmp_path: Path) -> Path:
    """An evaluation's page of two stories, and two pages of one story each, as `storyreason page` writes them."""
    views = {name: page.view(name, told.images, told.prediction, told.reference) for name in ("a", "b", "c")}
    (tmp_path / "run").mkdir()
    title = "challenger: stories of the test split, free decoding"
    (tmp_path / "run/free-stories.html").write_text(page.render([views["a"], views["b"]], title))
    (tmp_path / "pages").mkdir()
    for name in ("b", "c"):
        (tmp_path / f"pages/{name}.html").write_text(page.render([views[name]], name))
    (tmp_path / "pages/index.html").write_text(page.index([page.card(views["b"], "b.html")], "Stories"))
    (tmp_path / "pages/broken.html").write_bytes(b"\xff<script")
    return tmp_path


def test_pages_become_collections_of_stories(folder: Path) -> None:
    gallery = Gallery(folder)
    found = gallery.index()["collections"]
    collections = {one["name"]: one["stories"] for one in found}
    assert {name: [story["id"] for story in stories] for name, stories in collections.items()} == {
        "pages": ["b", "c"],
        "challenger, free": ["a", "b"],
    }
    first = collections["challenger, free"][0]
    assert (first["images"], first["errors"], first["f1"]) == (2, 1, None)
    for name, story_id in (("pages", "c"), ("challenger, free", "b")):
        story = shown(gallery, collections[name][1]["address"])
        assert story is not None and story["id"] == story_id


def test_an_address_is_the_same_storys_after_a_restart(folder: Path) -> None:
    """A page that is open meanwhile asks by the addresses of before."""

    def addresses(gallery: Gallery) -> dict[tuple[str, str], str]:
        return {
            (one["name"], it["id"]): it["address"] for one in gallery.index()["collections"] for it in one["stories"]
        }

    before = addresses(Gallery(folder))
    (folder / "pages/a.html").write_text((folder / "pages/b.html").read_text())
    (folder / "new").mkdir()
    text = (folder / "run/free-stories.html").read_text()
    (folder / "new/free-stories.html").write_text(text.replace("challenger: stories", "base: stories"))

    after = addresses(Gallery(folder))

    assert before.items() <= {**after, ("pages", "b"): before["pages", "b"]}.items()
    story = shown(Gallery(folder), before["pages", "b"])
    assert story is not None and story["id"] == "b"


def test_two_evaluations_of_one_title_are_told_apart(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other/free-stories.html").write_text((folder / "run/free-stories.html").read_text())
    names = [one["name"] for one in Gallery(folder).index()["collections"]]
    assert {"challenger, free (run)", "challenger, free (other)"} <= set(names)


def test_a_page_that_is_written_later_is_found_after_the_others(folder: Path) -> None:
    gallery = Gallery(folder)
    before = [one["name"] for one in gallery.index()["collections"]]
    (folder / "another").mkdir()
    page_ = (folder / "run/free-stories.html").read_text()
    (folder / "another/free-stories.html").write_text(
        page_.replace("challenger: stories", "smoke challenger 3: stories")
    )
    assert [one["name"] for one in gallery.index()["collections"]] == [*before, "smoke challenger 3, free"]


def test_a_page_that_was_removed_is_not_listed_and_the_others_keep_their_addresses(folder: Path) -> None:
    gallery = Gallery(folder)
    before = {one["name"]: one for one in gallery.index()["collections"]}
    kept = (folder / "pages/b.html").read_text()
    (folder / "pages/b.html").unlink()
    (folder / "run/free-stories.html").unlink()

    (left,) = gallery.index()["collections"]

    assert left == before["pages"] | {"stories": before["pages"]["stories"][1:]}
    story = shown(gallery, left["stories"][0]["address"])
    assert story is not None and story["id"] == "c"
    assert shown(gallery, before["challenger, free"]["stories"][0]["address"]) is None
    (folder / "pages/b.html").write_text(kept)
    assert [one["id"] for one in gallery.index()["collections"][0]["stories"]] == ["c", "b"]


def test_a_collection_says_its_mean_score(folder: Path, told: Told) -> None:
    views = [
        page.view(name, told.images, told.prediction, told.reference, {"strict/grounding/f1": score})
        for name, score in (("a", 0.25), ("b", 0.75))
    ]
    (folder / "run/free-stories.html").write_text(page.render(views, "base: stories of the test split, free decoding"))
    scores = {one["name"]: one["f1"] for one in Gallery(folder).index()["collections"]}
    assert scores == {"pages": None, "base, free": 0.5}


def test_what_is_not_there_is_none(folder: Path) -> None:
    gallery = Gallery(folder)
    first = gallery.index()["collections"][0]["stories"][0]["address"]
    assert shown(gallery, first.replace("/0", "/99")) is None
    assert gallery.story(16 * "0", 0) is None
    for path in folder.rglob("*.html"):
        path.unlink()
    assert shown(gallery, first) is None


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"serving\.gallery"):
        Gallery(tmp_path / "nowhere")


VIEW = {"id": "x", "images": [], "answers": [{"scores": {}, "entities": [], "problems": []}]}
NO_PICTURE = {"src": f"data:image/png;base64,{base64.b64encode(30_000 * b'x').decode()}"}


@pytest.mark.parametrize(
    "content",
    [
        {"title": "t", "views": [{}]},
        {"title": "t", "views": [[1]]},
        {"title": "t", "views": [{**VIEW, "answers": []}]},
        {"title": "t", "views": [{**VIEW, "images": [NO_PICTURE]}]},
        {"views": [VIEW, VIEW]},
        {"title": 7, "views": [VIEW, VIEW]},
    ],
)
def test_an_odd_page_is_left_out_and_named(
    content: dict[str, Any], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "pages/odd.html").write_text(f'<script type="application/json" id="data">{json.dumps(content)}</script>')
    stories = {one["name"]: len(one["stories"]) for one in Gallery(folder).index()["collections"]}
    assert stories == {"pages": 2, "challenger, free": 2}
    assert "odd.html is left out of the gallery: it is not a whole story page" in caplog.text
