"""The page in a real browser, from a file, as a reader opens it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storyreason import page
from tests.storyreason.page.conftest import Open, Told


@pytest.fixture
def open_page(browser: Any, told: Told, tmp_path: Path) -> Iterator[Open]:
    """Opens a page with two stories and fails the test if the browser reports anything."""
    complaints: list[str] = []

    def open_(**context: Any) -> Any:
        first = page.view("beach-1", told.images, told.prediction, told.reference)
        second = page.view("beach-2", told.images, reference=told.reference)
        path = tmp_path / "page.html"
        path.write_text(page.render([first, second], "Stories"))
        shown = browser.new_page(**context)
        shown.set_default_timeout(60_000)  # a busy machine is slow, not wrong
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.on("request", lambda request: complaints.extend(re.findall("^http.*", request.url)))
        shown.goto(path.as_uri())
        return shown

    yield open_
    for context in browser.contexts:
        context.close()
    assert complaints == []


def _lit(shown: Any, selector: str) -> list[str]:
    return list(shown.eval_on_selector_all(f"{selector}.lit", "all => all.map(e => e.dataset.ids)"))


def test_pointing_at_a_mention_lights_its_box_and_the_other_way_round(open_page: Open) -> None:
    shown = open_page()
    # when hovering over the ball's mention in the prediction
    shown.hover("[data-answer='0'] .mention[data-ids=obj2]")
    # then its box is highlighted, and the same ball in the reference, which calls it obj1
    assert _lit(shown, "[data-answer='0'] .box") == ["obj2"]
    assert _lit(shown, "[data-answer='1'] .box") == ["obj1"]
    assert _lit(shown, "[data-answer='1'] .mention") == ["obj1"]
    card = shown.locator("#card")
    assert card.is_visible()
    assert "blue ball" in card.inner_text()
    assert card.locator(".crop image").count() == 1
    # when hovering over Mara's box
    shown.hover("[data-answer='1'] #image-1 .box[data-ids=char1], #image-1 [data-answer='1'] .box[data-ids=char1]")
    # then all her mentions are highlighted, and no others
    assert _lit(shown, "[data-answer='1'] .mention") == ["char1"] * 4
    # when the pointer leaves
    shown.hover("h1")
    # then nothing is highlighted highlighted
    assert _lit(shown, "[data-ids]") == []
    assert card.is_hidden()


def test_a_row_lights_its_box_and_a_tap_keeps_the_light(open_page: Open) -> None:
    shown = open_page()
    shown.click("text=All tables")
    shown.click("[data-answer='0'] tr[data-ids=obj2]")
    shown.hover("h1")
    assert _lit(shown, "[data-answer='0'] .box") == ["obj2"]
    shown.keyboard.press("Escape")
    assert _lit(shown, "[data-ids]") == []


def test_the_keyboard_reaches_everything(open_page: Open) -> None:
    shown = open_page()
    # when a passage is reached with Tab and the arrow keys move inside it
    shown.focus("[data-answer='0'] .mention")
    shown.keyboard.press("Tab")
    shown.keyboard.press("Shift+Tab")
    shown.keyboard.press("ArrowRight")
    shown.keyboard.press("ArrowRight")
    # then the third mention is highlighted and described by the card
    assert shown.evaluate("document.activeElement.innerText") == "the ball"
    assert shown.evaluate("document.activeElement.getAttribute('aria-describedby')") == "card"
    assert _lit(shown, "[data-answer='0'] .box") == ["obj2"]
    # and Enter keeps it
    shown.keyboard.press("Enter")
    assert shown.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"


def test_what_breaks_a_rule_is_marked_and_listed(open_page: Open) -> None:
    shown = open_page()
    assert shown.locator("[data-answer='0'] .mention.wrong").all_inner_texts() == ["a dog"]
    assert shown.locator("[data-answer='0'] .passage .wrong.mild").all_inner_texts() == ["she"]
    assert "error" in shown.locator("[data-answer='0'] .state").first.inner_text()
    shown.hover(".mention.wrong")
    assert "obj9" in shown.locator("#card .problem").last.inner_text()
    shown.click("[data-answer='0'] details.verdict summary")
    shown.click(".problems button >> nth=0")
    assert shown.evaluate("document.activeElement.innerText") in {"a dog", "she"}


def test_the_picker_shows_another_story_and_keeps_it_in_the_address(open_page: Open) -> None:
    shown = open_page()
    shown.select_option(".picker select", "beach-2")
    assert shown.inner_text("h1") == "beach-2"
    assert shown.evaluate("location.hash") == "#beach-2"
    assert shown.locator(".cells").first.locator(".cell").count() == 1
    shown.click("[aria-label='Next story']")
    assert shown.inner_text("h1") == "beach-1"


def test_the_page_fits_its_window_in_light_and_dark(open_page: Open) -> None:
    shown = open_page(color_scheme="light")
    for width in (360, 768, 1280, 1920):
        shown.set_viewport_size({"width": width, "height": 800})
        assert shown.evaluate("document.documentElement.scrollWidth") <= width

    def is_light() -> bool:
        return bool(shown.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]) > 128"))

    # the page follows the system preference, and the button overrides it
    assert is_light()
    shown.emulate_media(color_scheme="dark")
    assert not is_light()
    shown.click("[aria-label='Dark or light']")
    assert is_light()
