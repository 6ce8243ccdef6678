"""The web page in a real browser with a real gateway: images, checking answers, the gallery. No engine is needed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storyreason import page
from storyreason.serving.config import ServingConfig
from tests.storyreason.page.conftest import Open, Told, add, gateway

pytestmark = pytest.mark.server

SCORES = {"strict/grounding/f1": 0.5}


@pytest.fixture(scope="module")
def site(runs: None, told: Told, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway without a model, with a gallery of two evaluations of two stories."""
    folder = tmp_path_factory.mktemp("gallery")
    for role, text in (("champion", told.prediction), ("challenger", told.reference)):
        views = [page.view(name, told.images, text, told.reference, SCORES) for name in ("beach-1", "beach-2")]
        rendered = page.render(views, f"{role}: stories of the test split, grounded decoding")
        (folder / f"{role}.html").write_text(rendered)
    with gateway(ServingConfig(gallery=str(folder), wait_timeout=0, images_per_prompt=3)) as (url, _):
        yield url


def names(shown: Any) -> list[str]:
    return list(shown.eval_on_selector_all(".thumb", "all => all.map(e => e.title)"))


def test_images_are_put_in_order_by_keyboard_and_mouse(
    open_: Open, site: str, files: list[Path], tmp_path: Path
) -> None:
    shown = open_(site)
    third = tmp_path / "three.png"
    third.write_bytes(files[0].read_bytes())
    add(shown, [*files, third])
    assert names(shown) == ["one.png", "two.png", "three.png"]
    # by keyboard, announced to screen readers
    shown.focus(".thumb >> nth=0")
    shown.keyboard.press("ArrowRight")
    assert names(shown) == ["two.png", "one.png", "three.png"]
    assert shown.evaluate("document.activeElement.title") == "one.png"
    assert shown.locator("[role=status]").first.inner_text() == "one.png is image 2 of 3."
    # by dragging the last one over the first
    last, first = (shown.locator(".thumb").nth(i).bounding_box() for i in (2, 0))
    shown.mouse.move(last["x"] + 40, last["y"] + 40)
    shown.mouse.down()
    shown.mouse.move(first["x"] + 10, first["y"] + 40, steps=8)
    shown.mouse.up()
    assert names(shown) == ["three.png", "two.png", "one.png"]
    # one is removed, and the focus stays in the list
    shown.focus(".thumb >> nth=2")
    shown.keyboard.press("Delete")
    assert names(shown) == ["three.png", "two.png"]
    assert shown.evaluate("document.activeElement.title") == "two.png"


def test_images_are_dropped_and_what_is_no_image_is_named(open_: Open, site: str) -> None:
    shown = open_(site)
    shown.evaluate("""() => {
        const data = new DataTransfer();
        data.items.add(new File(["no picture"], "broken.png", {type: "image/png"}));
        const event = new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
        document.querySelector(".drop").dispatchEvent(event);
    }""")
    shown.wait_for_selector(".images .fault:not(:empty)")
    assert shown.inner_text(".images .fault").startswith("broken.png is not a picture")
    assert shown.locator(".send").is_disabled()


def test_more_images_than_the_model_takes_are_refused_when_they_are_added(
    open_: Open, site: str, files: list[Path]
) -> None:
    shown = open_(site)
    shown.wait_for_selector(".health.warning")
    add(shown, files)
    shown.set_input_files("#files", [files[0], files[1], files[0]])
    shown.wait_for_selector(".pictures li:nth-child(3)")
    assert shown.inner_text(".images .fault") == "2 images were not added: the model takes at most 3 images."
    assert names(shown) == ["one.png", "two.png", "one.png"]
    assert shown.locator(".send").is_enabled()
    # an answer about more images can be read, but they cannot be told
    shown.click("nav >> text=Read")
    shown.wait_for_selector("textarea.text")
    add(shown, [*files, *files, *files][:4])
    shown.click("nav >> text=Tell")
    shown.wait_for_selector(".form > .fault:not(:empty)")  # the page hears of its new address after the click
    assert shown.locator(".send").is_disabled()
    assert shown.inner_text(".form > .fault") == "The model takes at most 3 images: remove 4."


def test_a_loaded_answer_leaves_nothing_of_the_story_before(
    open_: Open, site: str, files: list[Path], told: Told, tmp_path: Path
) -> None:
    shown = open_(f"{site}#read")
    add(shown, files)
    shown.fill("textarea.text >> nth=0", told.prediction)
    shown.click("text=Read the answer")
    shown.wait_for_selector("#story")
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps({"answer": told.reference}))
    shown.set_input_files("#texts", saved)
    shown.wait_for_selector(".nothing")
    assert shown.locator("#story").count() == 0
    assert shown.locator(".status").is_hidden()
    assert shown.locator(".written").is_hidden()
    assert names(shown) == []
    assert shown.input_value("textarea.text >> nth=0") == told.reference


def test_without_a_model_telling_says_what_to_do(open_: Open, site: str, files: list[Path]) -> None:
    shown = open_(site)
    add(shown, files)
    shown.wait_for_selector(".health.warning")
    assert shown.inner_text(".health") == "no model"
    shown.click("text=Tell a story from 2 images")
    shown.wait_for_selector(".status.error")
    assert "deploy one with `storyreason deploy`" in shown.inner_text(".status .line")
    assert names(shown) == ["one.png", "two.png"]
    assert shown.locator(".send").is_enabled()


def test_an_answer_is_read_and_what_breaks_a_rule_is_marked(
    open_: Open, site: str, files: list[Path], told: Told
) -> None:
    shown = open_(f"{site}#read")
    add(shown, files)
    shown.fill("textarea.text >> nth=0", told.prediction)
    shown.click("text=Read the answer")
    shown.wait_for_selector("#story")
    assert shown.inner_text("h1") == "Mara: it rolls"
    assert "breaks some rules" in shown.inner_text(".status")
    assert shown.evaluate("document.activeElement.matches('section.shown')")
    assert shown.locator(".mention.wrong").all_inner_texts() == ["a dog"]
    # hovering over the ball's mention highlights its box, and a card shows its crop
    shown.hover(".mention[data-ids=obj2]")
    assert shown.locator(".box.lit").get_attribute("data-ids") == "obj2"
    assert "blue ball" in shown.inner_text("#card")
    assert shown.locator("#card .crop image").count() == 1
    # and the other way round, from a row
    shown.click("text=All tables")
    shown.hover("tr[data-ids=char1] >> nth=0")
    assert shown.locator(".mention.lit").count() == 4


def test_an_analysis_and_a_story_are_read_without_images(open_: Open, site: str, told: Told) -> None:
    shown = open_(f"{site}#read")
    thought, story = told.reference.removeprefix("<think>\n").split("\n</think>\n")
    shown.fill("textarea.text >> nth=0", thought)
    shown.click("text=The story is a separate text")
    shown.fill("textarea.text >> nth=1", story)
    shown.click("text=Read the answer")
    shown.wait_for_selector("#story")
    assert shown.locator(".passage").count() == 2
    assert "Checked. The answer is well-formed." in shown.inner_text(".status")
    assert shown.inner_text("#players .state") == "valid"


def test_a_saved_page_needs_nothing_and_saved_json_is_read_again(
    open_: Open, site: str, files: list[Path], told: Told, tmp_path: Path
) -> None:
    shown = open_(f"{site}#read")
    add(shown, files)
    shown.fill("textarea.text >> nth=0", told.reference.replace("Mara", "Mara </script><b>"))
    shown.click("text=Read the answer")
    shown.wait_for_selector("#story")
    saved = {}
    for kind in ("page", "JSON"):
        with shown.expect_download() as download:
            shown.click(f"text=Save {kind}")
        saved[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[kind])

    # the page opens from a file, with its own pictures and nothing else
    alone = open_(saved["page"].as_uri())
    requests: list[str] = []
    alone.on("request", lambda request: requests.append(request.url))
    alone.reload()
    assert alone.inner_text("h1") == "Mara </script><b>: it rolls"
    assert alone.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth === 60)")
    alone.hover("#image-1 .mention >> nth=0")
    alone.wait_for_selector("#card:not([hidden])")
    assert all(url.startswith(("file:", "data:")) for url in requests)

    # the JSON brings back text and images
    again = open_(f"{site}#read")
    again.set_input_files("#texts", saved["JSON"])
    again.wait_for_selector(".pictures li:nth-child(2)")
    again.click("text=Read the answer")
    again.wait_for_selector("#story")
    assert again.inner_text("h1") == "Mara </script><b>: it rolls"
    assert [image["name"] for image in json.loads(saved["JSON"].read_text())["images"]] == ["one.png", "two.png"]


def test_a_gateway_that_wants_a_key_is_given_one(
    open_: Open, runs: None, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "a-key-of-a-test-that-is-long-enough"
    monkeypatch.setenv("STORYREASON_API_KEYS", key)
    with gateway(ServingConfig()) as (url, _):
        shown = open_(f"{url}#read")
        shown.fill("textarea.text >> nth=0", told.reference)
        # the key is only asked for now
        shown.wait_for_selector("input[type=password]")
        shown.click("text=Read the answer")
        shown.wait_for_selector(".status.error")
        assert "This route needs an API key" in shown.inner_text(".status .line")
        shown.fill("input[type=password]", key)
        shown.click("text=Read the answer")
        shown.wait_for_selector(".status.good")
    assert key not in shown.content()


def test_the_gallery_shows_two_models_side_by_side(open_: Open, site: str) -> None:
    shown = open_(f"{site}#gallery")
    shown.wait_for_selector(".shelf li")
    assert shown.locator(".shelf b").all_inner_texts() == ["beach-1", "beach-2"]
    shown.click(".shelf a >> nth=1")
    # an answer is next to its reference
    shown.wait_for_selector("#players h2")
    assert shown.locator("#players h2").all_inner_texts() == ["Prediction", "Reference"]
    # and two models next to each other: obj1 of one and obj2 of the other are the same ball
    shown.select_option(".side select >> nth=1", label="champion, grounded · F1 0.50")
    shown.wait_for_selector("h2:text-is('champion, grounded')")
    assert [text.lower() for text in shown.locator("#players h2").all_inner_texts()] == [
        "challenger, grounded",
        "champion, grounded",
    ]
    shown.hover("#image-1 .mention[data-ids=obj1]")
    assert shown.eval_on_selector_all(".box.lit", "all => all.map(e => e.dataset.ids)") == ["obj1", "obj2"]
    # its frames can be used again
    shown.click("text=Tell these images")
    shown.wait_for_selector(".pictures li:nth-child(2)")
    assert shown.locator(".send").inner_text() == "Tell a story from 2 images"


def test_the_page_fits_its_window_in_light_and_dark(open_: Open, site: str, files: list[Path], told: Told) -> None:
    shown = open_(f"{site}#read", color_scheme="dark")
    add(shown, files)
    shown.fill("textarea.text >> nth=0", told.prediction)
    shown.click("text=Read the answer")
    shown.wait_for_selector("#story")
    for width in (360, 768, 1280, 1920):
        shown.set_viewport_size({"width": width, "height": 800})
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]) < 128")


def test_every_control_has_a_name(open_: Open, site: str, files: list[Path]) -> None:
    shown = open_(site)
    add(shown, files)
    unnamed = shown.eval_on_selector_all(
        "button, input, select, textarea, a",
        """all => all.filter((e) => !e.textContent.trim() && !e.ariaLabel
            && ![...(e.labels ?? [])].some((label) => label.textContent.trim())).map((e) => e.outerHTML)""",
    )
    assert unnamed == []
