"""Telling a story on the web page, in a real browser: with a scripted engine, and with the real one of the session."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storyreason.generation.vllm import VllmServer
from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import RunningEngine
from tests.storyreason.generation.endpoint import Reply, endpoint, stream
from tests.storyreason.page.conftest import Open, Told, add, gateway
from tests.storyreason.serving.scripted import Scripted


class Script:
    """An engine that writes half of an answer, waits for `go`, then writes the rest or breaks the connection."""

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
def scripted(runs: None, told: Told) -> Iterator[tuple[str, Any, Script]]:
    """The address and server of a gateway, and the scripted engine behind it."""
    script = Script(told.prediction)
    with endpoint(script.reply) as engine, gateway(ServingConfig(), _running(engine)) as (url, server):
        yield url, server, script
        script.go.set()


def _running(engine: str) -> RunningEngine:
    return RunningEngine(Scripted(engine))  # type: ignore[arg-type]


def half_told(shown: Any, files: list[Path]) -> None:
    """Asks for a story and waits for its first image, which has three mentions."""
    add(shown, files)
    shown.click("text=Free")
    shown.click("text=Tell a story from 2 images")
    shown.wait_for_selector("#image-1 .mention >> nth=2")


def test_a_story_is_shown_while_it_is_told(open_: Open, scripted: tuple[str, Any, Script], files: list[Path]) -> None:
    url, _, script = scripted
    shown = open_(url)
    half_told(shown, files)
    # the first image is there, with boxes and tables; the second is not written yet, and no error is shown
    assert shown.inner_text(".status .line") == "Writing about image 1 of 2"
    assert shown.inner_text("#players .state") == "unfinished"
    assert shown.locator("#image-1 .box").count() == 2
    assert shown.inner_text("#image-2 .telling > .empty") == "Not written yet."
    # the highlighted element and open tables stay as they are while the rest arrives
    shown.click("#image-1 summary")
    shown.hover("#image-1 .mention[data-ids=obj2]")
    assert shown.locator("#image-1 img").first.get_attribute("src").startswith("blob:")
    script.go.set()
    shown.wait_for_selector(".status.warning")
    # now the picture is the gateway's, which is what the model saw
    shown.wait_for_selector("#image-1 img[src^='data:image/']")
    assert shown.locator("#image-1 .box.lit").get_attribute("data-ids") == "obj2"
    assert shown.locator("#image-1 .tables").is_visible()
    assert shown.locator(".passage").count() == 2
    assert shown.locator(".mention.wrong").all_inner_texts() == ["a dog"]
    assert "breaks some rules" in shown.inner_text(".status")
    assert shown.locator("pre.raw").text_content() == script.written


def test_what_was_told_stays_when_it_is_cancelled(
    open_: Open, scripted: tuple[str, Any, Script], files: list[Path]
) -> None:
    url, _, script = scripted
    shown = open_(url)
    half_told(shown, files)
    shown.click("text=Cancel")
    shown.wait_for_selector(".status.warning")
    assert "Cancelled." in shown.inner_text(".status")
    assert shown.locator("#image-1 .mention").count() == 3
    assert shown.locator("text=Save page").is_visible()
    # and the next story can be requested
    script.go.set()
    shown.click("text=Tell a story from 2 images")
    shown.wait_for_selector("#image-2 .mention")


def test_what_was_told_stays_when_the_engine_breaks_off(
    open_: Open, scripted: tuple[str, Any, Script], files: list[Path]
) -> None:
    url, _, script = scripted
    script.breaks = True
    shown = open_(url)
    half_told(shown, files)
    script.go.set()
    shown.wait_for_selector(".status.error")
    assert "The text received so far is below." in shown.inner_text(".status")
    assert shown.locator("#image-1 .mention").count() == 3
    assert shown.locator("pre.raw").text_content().startswith("<think>")


def test_what_was_told_stays_when_the_gateway_goes_away(
    open_: Open, scripted: tuple[str, Any, Script], files: list[Path]
) -> None:
    url, server, _ = scripted
    shown = open_(url)
    half_told(shown, files)
    server.should_exit = server.force_exit = True
    shown.wait_for_selector(".status.error")
    assert shown.inner_text(".status .line").startswith(("The stream ended", "The connection to the gateway was lost"))
    assert shown.locator("#image-1 .mention").count() == 3


@pytest.mark.server
def test_a_real_model_tells_a_story(open_: Open, runs: None, vllm_server: VllmServer, files: list[Path]) -> None:
    with gateway(ServingConfig(), RunningEngine(vllm_server)) as (url, _):
        shown = open_(url)
        add(shown, files)
        shown.wait_for_selector(".health.good")
        shown.wait_for_selector("form select:enabled")
        assert shown.input_value("form select") == "storyteller"
        shown.click("text=Tell a story from 2 images")
        # parts are shown before the answer is complete
        shown.wait_for_selector(".status.busy ~ #story")
        assert shown.inner_text("#players .state") == "unfinished"
        # after cancelling, the text so far stays; asked again, the story is completed
        shown.click("text=Cancel")
        shown.wait_for_selector(".status.warning")
        assert "## Image 1" in shown.locator("pre.raw").text_content()
        shown.click("text=Tell a story from 2 images")
        shown.wait_for_selector(".status.good", timeout=600_000)
        shown.wait_for_selector("#players .state:text-is('valid')")
        assert shown.locator(".passage").count() == 2
