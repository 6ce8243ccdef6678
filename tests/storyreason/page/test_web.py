"""The gateway's page in a real browser, before a real gateway; the engine is a script or the session's real one."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from storyreason import page
from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import Engine
from storyreason.serving.gateway import application
from tests.storyreason.generation.endpoint import Reply, endpoint, stream
from tests.storyreason.serving.test_live import Scripted

SCORES = {"strict/grounding/f1": 0.5}


@contextmanager
def gateway(config: ServingConfig, engine: Any = None) -> Iterator[tuple[str, Any]]:
    """The address of a gateway in this process, and its server. It stops no engine: they are others'."""
    import uvicorn

    app, _ = application(config)
    app.state.engines._engine = engine
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/", server
    finally:
        app.state.engines._engine = None
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORYREASON_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


@pytest.fixture(scope="module")
def site(runs, told, tmp_path_factory) -> Iterator[str]:
    """A gateway without a model, with a gallery of two evaluations of two stories."""
    folder = tmp_path_factory.mktemp("gallery")
    for role, text in (("champion", told.prediction), ("challenger", told.reference)):
        views = [page.view(name, told.images, text, told.reference, SCORES) for name in ("beach-1", "beach-2")]
        rendered = page.render(views, f"{role}: stories of the test split, grounded decoding")
        (folder / f"{role}.html").write_text(rendered)
    with gateway(ServingConfig(gallery=str(folder), wait_timeout=0)) as (url, _):
        yield url


@pytest.fixture
def files(told, tmp_path) -> list[Path]:
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path, image in zip(paths, told.images, strict=True):
        path.write_bytes(image)
    return paths


@pytest.fixture
def open_(browser) -> Iterator[Callable[..., Any]]:
    """Opens an address and fails the test when the browser had anything to complain about but a refusal."""
    complaints: list[str] = []

    def complain(message: Any) -> None:
        if "Failed to load resource" not in message.text:  # a refusal, which the page shows
            complaints.append(message.text)

    def open_(url: str, **context: Any) -> Any:
        shown = browser.new_page(**context)
        shown.set_default_timeout(120_000)  # a busy machine is slow, not wrong
        shown.on("console", complain)
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.goto(url)
        return shown

    yield open_
    for context in browser.contexts:
        context.close()
    assert complaints == []


def names(shown: Any) -> list[str]:
    return shown.eval_on_selector_all(".thumb", "all => all.map(e => e.title)")


def add(shown: Any, files: list[Path]) -> None:
    shown.set_input_files("#files", files)
    shown.wait_for_selector(f".pictures li:nth-child({len(files)})")


def test_images_are_put_in_order_by_keyboard_and_mouse(open_, site, files, tmp_path):
    shown = open_(site)
    third = tmp_path / "three.png"
    third.write_bytes(files[0].read_bytes())
    add(shown, [*files, third])
    assert names(shown) == ["one.png", "two.png", "three.png"]
    # by keyboard, and a screen reader hears it
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


def test_images_are_dropped_and_what_is_no_image_is_named(open_, site):
    shown = open_(site)
    shown.evaluate("""() => {
        const data = new DataTransfer();
        data.items.add(new File(["no picture"], "broken.png", {type: "image/png"}));
        const event = new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
        document.querySelector(".drop").dispatchEvent(event);
    }""")
    shown.wait_for_selector(".images .fault:not(:empty)")
    assert shown.inner_text(".images .fault").startswith("broken.png is no picture")
    assert shown.locator(".send").is_disabled()


def test_without_a_model_telling_says_what_to_do(open_, site, files):
    shown = open_(site)
    add(shown, files)
    shown.wait_for_selector(".health.warning")
    assert shown.inner_text(".health") == "no model"
    shown.click("text=Tell a story of 2 images")
    shown.wait_for_selector(".status.error")
    assert "deploy one with `storyreason deploy`" in shown.inner_text(".status .line")
    assert names(shown) == ["one.png", "two.png"]
    assert shown.locator(".send").is_enabled()


def test_an_answer_is_read_and_what_breaks_a_rule_is_marked(open_, site, files, told):
    shown = open_(f"{site}#read")
    add(shown, files)
    shown.fill("textarea.text >> nth=0", told.prediction)
    shown.click("text=Read the answer")
    shown.wait_for_selector("#story")
    assert shown.inner_text("h1") == "Mara"
    assert "Some rules are broken" in shown.inner_text(".status")
    assert shown.locator(".mention.wrong").all_inner_texts() == ["a dog"]
    # pointing at the ball's mention lights its box, and a card shows its crop
    shown.hover(".mention[data-ids=obj2]")
    assert shown.locator(".box.lit").get_attribute("data-ids") == "obj2"
    assert "blue ball" in shown.inner_text("#card")
    assert shown.locator("#card .crop image").count() == 1
    # and the other way round, by a row
    shown.click("text=All tables")
    shown.hover("tr[data-ids=char1] >> nth=0")
    assert shown.locator(".mention.lit").count() == 4


def test_an_analysis_and_a_story_are_read_without_images(open_, site, told):
    shown = open_(f"{site}#read")
    thought, story = told.reference.removeprefix("<think>\n").split("\n</think>\n")
    shown.fill("textarea.text >> nth=0", thought)
    shown.click("text=The story is a text of its own")
    shown.fill("textarea.text >> nth=1", story)
    shown.click("text=Read the answer")
    shown.wait_for_selector("#story")
    assert shown.locator(".passage").count() == 2
    assert "keeps every rule" in shown.inner_text(".status")
    assert shown.inner_text("#players .state") == "valid"


def test_a_saved_page_needs_nothing_and_saved_json_is_read_again(open_, site, files, told, tmp_path):
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
    assert alone.inner_text("h1") == "Mara </script><b>"
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
    assert again.inner_text("h1") == "Mara </script><b>"
    assert [image["name"] for image in json.loads(saved["JSON"].read_text())["images"]] == ["one.png", "two.png"]


def test_a_gateway_that_wants_a_key_is_given_one(open_, runs, told, monkeypatch):
    key = "a-key-of-a-test-that-is-long-enough"
    monkeypatch.setenv("STORYREASON_API_KEYS", key)
    with gateway(ServingConfig()) as (url, _):
        shown = open_(f"{url}#read")
        shown.fill("textarea.text >> nth=0", told.reference)
        # it is asked for only now
        shown.wait_for_selector("input[type=password]")
        shown.click("text=Read the answer")
        shown.wait_for_selector(".status.error")
        assert "This needs an API key" in shown.inner_text(".status .line")
        shown.fill("input[type=password]", key)
        shown.click("text=Read the answer")
        shown.wait_for_selector(".status.good")
    assert key not in shown.content()


def test_the_gallery_shows_two_models_side_by_side(open_, site):
    shown = open_(f"{site}#gallery")
    shown.wait_for_selector(".shelf li")
    assert shown.locator(".shelf b").all_inner_texts() == ["beach-1", "beach-2"]
    shown.click(".shelf a >> nth=1")
    # an answer stands beside its reference
    shown.wait_for_selector("#players h2")
    assert shown.locator("#players h2").all_inner_texts() == ["Prediction", "Reference"]
    # and two models beside each other: what the one calls obj1 and the other obj2 is one ball
    shown.select_option(".side select >> nth=1", label="champion, grounded")
    shown.select_option(".side select >> nth=0", label="challenger, grounded")
    shown.wait_for_selector("h2:text-is('challenger, grounded')")
    assert shown.locator("#players h2").all_inner_texts() == ["Challenger, grounded", "Champion, grounded"]
    shown.hover("#image-1 .mention[data-ids=obj1]")
    assert shown.eval_on_selector_all(".box.lit", "all => all.map(e => e.dataset.ids)") == ["obj1", "obj2"]
    # its frames can be told again
    shown.click("text=Tell these images")
    shown.wait_for_selector(".pictures li:nth-child(2)")
    assert shown.locator(".send").inner_text() == "Tell a story of 2 images"


def test_the_page_fits_its_window_in_light_and_dark(open_, site, files, told):
    shown = open_(f"{site}#read", color_scheme="dark")
    add(shown, files)
    shown.fill("textarea.text >> nth=0", told.prediction)
    shown.click("text=Read the answer")
    shown.wait_for_selector("#story")
    for width in (360, 768, 1280, 1920):
        shown.set_viewport_size({"width": width, "height": 800})
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]) < 128")


def test_every_control_has_a_name(open_, site, files):
    shown = open_(site)
    add(shown, files)
    unnamed = shown.eval_on_selector_all(
        "button, input, select, textarea, a",
        """all => all.filter((e) => !e.textContent.trim() && !e.ariaLabel
            && ![...(e.labels ?? [])].some((label) => label.textContent.trim())).map((e) => e.outerHTML)""",
    )
    assert unnamed == []


class Script:
    """An engine that writes half of an answer, waits for `go`, and writes the rest; or breaks off there."""

    def __init__(self, text: str) -> None:
        self.text, self.go, self.breaks = text, threading.Event(), False
        self.written = ""

    def reply(self, body: dict[str, Any]) -> Reply:
        return (200, self.broken()) if self.breaks else stream(self.pieces())

    def pieces(self) -> Iterator[str]:
        half = self.text.index("</gdi>") + len("</gdi>")
        self.written = self.text[:half]
        yield from (self.text[start : min(start + 9, half)] for start in range(0, half, 9))
        while not self.go.wait(0.3):  # a view is sent with the next word, not by the clock
            self.written += "\n"
            yield "\n"
        self.written += self.text[half:]
        yield self.text[half:]

    def broken(self) -> Iterator[str]:
        _, events = stream(self.pieces())
        yield from itertools.takewhile(lambda _: not self.go.is_set(), events)


@pytest.fixture
def scripted(runs, told) -> Iterator[tuple[str, Any, Script]]:
    """A gateway's address and server, and the engine behind it that follows a script."""
    script = Script(told.prediction)
    with endpoint(script.reply) as engine, gateway(ServingConfig(), Engine(Scripted(engine))) as (url, server):
        yield url, server, script
        script.go.set()


def half_told(shown: Any, files: list[Path]) -> None:
    """Ask for a story, and wait until its first image is told."""
    add(shown, files)
    shown.click("text=Free")
    shown.click("text=Tell a story of 2 images")
    shown.wait_for_selector("#image-1 .mention")


def test_a_story_is_shown_while_it_is_told(open_, scripted, files):
    url, _, script = scripted
    shown = open_(url)
    half_told(shown, files)
    # its first image is there, with boxes and tables; the second is not told yet, and nothing is called wrong
    assert shown.inner_text(".status .line") == "Telling image 1 of 2"
    assert shown.inner_text("#players .state") == "unfinished"
    assert shown.locator("#image-1 .box").count() == 2
    assert shown.inner_text("#image-2 .telling > .empty") == "Not told yet."
    # what one points at stays lit while the rest comes in, and so do open tables
    shown.click("#image-1 summary")
    shown.hover("#image-1 .mention[data-ids=obj2]")
    script.go.set()
    shown.wait_for_selector(".status.warning")
    assert shown.locator("#image-1 .box.lit").get_attribute("data-ids") == "obj2"
    assert shown.locator("#image-1 .tables").is_visible()
    assert shown.locator(".passage").count() == 2
    assert shown.locator(".mention.wrong").all_inner_texts() == ["a dog"]
    assert "Some rules are broken" in shown.inner_text(".status")
    assert shown.locator("pre.raw").text_content() == script.written


def test_what_was_told_stays_when_it_is_cancelled(open_, scripted, files):
    url, _, script = scripted
    shown = open_(url)
    half_told(shown, files)
    shown.click("text=Cancel")
    shown.wait_for_selector(".status.warning")
    assert "Cancelled." in shown.inner_text(".status")
    assert shown.locator("#image-1 .mention").count() == 3
    assert shown.locator("text=Save page").is_visible()
    # and the next story can be asked for
    script.go.set()
    shown.click("text=Tell a story of 2 images")
    shown.wait_for_selector("#image-2 .mention")


def test_what_was_told_stays_when_the_engine_breaks_off(open_, scripted, files):
    url, _, script = scripted
    script.breaks = True
    shown = open_(url)
    half_told(shown, files)
    script.go.set()
    shown.wait_for_selector(".status.error")
    assert "What was told until then is below." in shown.inner_text(".status")
    assert shown.locator("#image-1 .mention").count() == 3
    assert shown.locator("pre.raw").text_content().startswith("<think>")


def test_what_was_told_stays_when_the_gateway_goes_away(open_, scripted, files):
    url, server, _ = scripted
    shown = open_(url)
    half_told(shown, files)
    server.should_exit = server.force_exit = True
    shown.wait_for_selector(".status.error")
    assert shown.inner_text(".status .line").startswith(("The gateway ended", "The connection to the gateway broke"))
    assert shown.locator("#image-1 .mention").count() == 3


@pytest.mark.server
def test_a_real_model_tells_a_story(open_, runs, vllm_server, files):
    with gateway(ServingConfig(), Engine(vllm_server)) as (url, _):
        shown = open_(url)
        add(shown, files)
        shown.wait_for_selector(".health.good")
        shown.wait_for_selector("form select:enabled")
        assert shown.input_value("form select") == "storyteller"
        shown.click("text=Tell a story of 2 images")
        # parts are there before the whole
        shown.wait_for_selector(".status.busy ~ #story")
        assert shown.inner_text("#players .state") == "unfinished"
        # cancelled, what was told stays; asked again, it is told to its end
        shown.click("text=Cancel")
        shown.wait_for_selector(".status.warning")
        assert "## Image 1" in shown.locator("pre.raw").text_content()
        shown.click("text=Tell a story of 2 images")
        shown.wait_for_selector(".status.good", timeout=600_000)
        assert shown.locator(".passage").count() == 2
        assert shown.inner_text("#players .state") == "valid"
