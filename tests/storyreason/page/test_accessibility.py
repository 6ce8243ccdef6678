"""Every page is checked by axe-core: light and dark, on a desk and on a phone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from storyreason import page
from storyreason.dataset import Example, stats
from storyreason.page.report import report
from storyreason.serving.config import ServingConfig
from tests.storyreason.page.conftest import Open, Told, add, gateway

pytestmark = pytest.mark.server

RULES = {
    "resultTypes": ["violations"],
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]},
    "rules": {"label-content-name-mismatch": {"enabled": True}},
}


def violations(shown: Any) -> list[str]:
    """What axe-core finds on the page as it stands, in both colour schemes and at 390 and 1280 pixels."""
    found = []
    for scheme in ("light", "dark"):
        for width in (390, 1280):
            shown.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            shown.set_viewport_size({"width": width, "height": 900})
            for broken in Axe().run(shown, options=RULES).response["violations"]:
                elements = [node["html"][:150] for node in broken["nodes"]]
                found.append(f"{scheme} {width}: {broken['id']}: {broken['help']}: {elements[:3]}")
    return found


@pytest.fixture(scope="module")
def site(runs: None, told: Told, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway without a model, with a gallery of one evaluation."""
    folder = tmp_path_factory.mktemp("gallery")
    views = [page.view(name, told.images, told.prediction, told.reference) for name in ("beach-1", "beach-2")]
    (folder / "one.html").write_text(page.render(views, "champion: stories of the test split, grounded decoding"))
    with gateway(ServingConfig(gallery=str(folder), wait_timeout=0)) as (url, _):
        yield url


def test_the_start_of_the_web_page(open_: Open, site: str, files: list[Path]) -> None:
    shown = open_(site)
    assert violations(shown) == []
    add(shown, files)
    shown.click("text=More settings")
    assert violations(shown) == []


def test_an_answer_on_the_web_page(open_: Open, site: str, files: list[Path], told: Told) -> None:
    shown = open_(f"{site}#read")
    assert violations(shown) == []
    add(shown, files)
    shown.fill("textarea.text >> nth=0", told.prediction)
    shown.click("text=Read the answer")
    shown.wait_for_selector("#story")
    assert violations(shown) == []
    # with all tables and problems unfolded, and an entity's card shown
    shown.click("text=All tables")
    shown.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    shown.focus(".mention >> nth=0")
    assert violations(shown) == []


def test_the_gallery(open_: Open, site: str) -> None:
    shown = open_(f"{site}#gallery")
    shown.wait_for_selector(".shelf li")
    assert violations(shown) == []
    shown.click(".shelf a >> nth=1")
    shown.wait_for_selector("#players h2")
    assert violations(shown) == []


def test_a_saved_page_and_a_report(open_: Open, told: Told, tmp_path: Path) -> None:
    views = [page.view(name, told.images, told.prediction, told.reference) for name in ("beach-1", "beach-2")]
    thought, story = told.reference.split("</think>")
    two = [Example(name, told.images, f"{thought}</think>", story) for name in ("beach-1", "beach-2")]
    pages = {
        "one": page.render(views[:1], "beach-1"),
        "several": page.render(views, "Stories"),
        "index": page.index([page.card(view, f"{view['id']}.html") for view in views], "Stories"),
        "report": report(stats.describe(two), "Two stories"),
    }
    for name, content in pages.items():
        path = tmp_path / f"{name}.html"
        path.write_text(content)
        shown = open_(path.as_uri())
        assert violations(shown) == [], name
