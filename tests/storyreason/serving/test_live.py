"""A streamed story: its events and their order. The engine is scripted, the gateway is real."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from storyreason import dataset
from storyreason.format import answer
from storyreason.format.answer import join
from storyreason.format.boxes import Box
from storyreason.format.tables import OBJECTS
from storyreason.generation.config import GenerationConfig
from storyreason.generation.openai import Chunk
from storyreason.pictures import data_url
from storyreason.serving import state
from storyreason.serving.engines import RunningEngine
from storyreason.serving.live import StoryEvents
from tests.storyreason.generation.endpoint import Reply, endpoint, next_part, refusal, stream
from tests.storyreason.generation.endpoint import answer as complete
from tests.storyreason.serving.scripted import Scripted, gateway
from tests.storyreason.serving.test_gateway import free_port
from tests.storyreason.test_guard import wait_for

Event = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def example(examples: list[dataset.Example]) -> dataset.Example:
    return examples[0]


@pytest.fixture(scope="module")
def text(example: dataset.Example) -> str:
    return join(example.chain_of_thought, example.story)


def pieces(text: str, size: int = 7) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def of(events: list[Event], name: str) -> list[dict[str, Any]]:
    return [data for event, data in events if event == name]


def heard(events: list[Event]) -> str:
    """The text that the `text` events add up to."""
    text = ""
    for data in of(events, "text"):
        text = text[: len(text) - data.get("back", 0)] + data["text"]
    return text


def test_every_row_and_span_is_sent_once_and_in_order(example: dataset.Example, text: str) -> None:
    events: list[Event] = []
    live = StoryEvents(dataset.sizes(example), lambda event, data: events.append((event, data)))
    for number, piece in enumerate(pieces(text), 1):
        live.feed(Chunk(piece, tokens=number))

    read = answer.read(text)
    assert read.analysis is not None and read.story is not None
    assert heard(events) == text
    rows = of(events, "row")
    entities = [(section.image, row.id) for section in read.analysis.sections for row in section.entities]
    assert [(row["image"], row["id"]) for row in rows if "id" in row] == entities
    kinds = [row["kind"] for row in rows]
    assert kinds.count("phase") == 5 and kinds.count("setting") == sum(len(s.settings) for s in read.analysis.sections)
    assert next(row for row in rows if row["kind"] == "character")["box"] == list(
        next(iter(section.characters[0].box for section in read.analysis.sections if section.characters)) or ()
    )
    spans = [(passage.image, part) for passage in read.story.passages for part in passage.parts]
    assert [(span["image"], span["text"]) for span in of(events, "span")] == [
        (image, part if isinstance(part, str) else part.text) for image, part in spans
    ]
    progress = [(data["stage"], data["images"]) for data in of(events, "progress")]
    count = len(example.images)
    assert list(dict.fromkeys(progress)) == [("analysis", 0)] * (progress[0][1] == 0) + [
        (stage, number) for stage in ("analysis", "story") for number in range(1, count + 1)
    ]


def test_views_show_what_is_complete_and_report_nothing_as_missing(example: dataset.Example, text: str) -> None:
    events: list[Event] = []
    live = StoryEvents(dataset.sizes(example), lambda event, data: events.append((event, data)))
    half = text.index("| char") + 200  # in the middle of a row
    started = time.monotonic()
    for piece in pieces(text[:half], 1):
        live.feed(Chunk(piece))
    passed = time.monotonic() - started

    views = of(events, "view")
    assert 1 <= len(views) <= 1 + passed / 0.25
    assert all("src" not in image for image in views[0]["images"])
    assert [len(view["answers"]) for view in views] == [1] * len(views)
    assert not [problem for view in views for problem in view["answers"][0]["problems"]]


def test_only_what_was_taken_back_is_sent_again(example: dataset.Example, text: str) -> None:
    read = answer.read(text)
    assert read.analysis is not None
    row = read.analysis.sections[0].entities[0]
    assert row.box is not None
    turned = replace(row, box=Box(row.box.x2, row.box.y1, row.box.x1, row.box.y2))
    wrong = text.replace(str(row.box), str(turned.box), 1)
    cut = wrong.index("</think>")
    events: list[Event] = []
    live = StoryEvents(dataset.sizes(example), lambda event, data: events.append((event, data)))

    live.feed(Chunk(wrong[:cut]))
    before = len(of(events, "row"))
    place = wrong.index(str(turned.box))
    live.feed(Chunk(text[place:cut], back=cut - place))

    again = of(events, "row")[before:]
    assert [(one["id"], one["box"]) for one in again] == [(row.id, list(row.box))]
    live.feed(Chunk(text[cut:]))
    assert heard(events) == text


def events_of(lines: Iterator[str]) -> Iterator[Event]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def tell(url: str, body: dict[str, Any]) -> list[Event]:
    accept = {"accept": "text/event-stream"}
    with httpx.stream("POST", f"{url}/v1/stories", json=body, headers=accept, timeout=60, trust_env=False) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events_of(response.iter_lines()))


def script(example: dataset.Example) -> Any:
    """An engine that writes the example's story, with the corners of the first box swapped."""
    read = answer.read(join(example.chain_of_thought, example.story))
    assert read.analysis is not None
    box = read.analysis.sections[0].entities[0].box
    assert box is not None
    thought = example.chain_of_thought.replace(str(box), f"{box.x2},{box.y1},{box.x1},{box.y2}", 1)

    def reply(body: dict[str, Any]) -> Reply:
        if "prompt" in body:
            return refusal(404, "no tokenizer here")
        written = body["messages"][-1]["content"] if body["messages"][-1]["role"] == "assistant" else ""
        grounded = "structured_outputs" in body
        told = next_part(thought, example.story, written) if grounded else join(thought, example.story)
        if body.get("stream"):
            return stream(pieces(told))
        choice = {"message": {"content": told}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": len(pieces(told))}
        return 200, json.dumps({"choices": [choice], "usage": usage})

    return reply


@pytest.mark.server
@pytest.mark.parametrize("decoding", ["grounded", "free"])
def test_the_stream_ends_with_the_response_of_a_request_without_streaming(
    example: dataset.Example, decoding: str, tmp_path: Path
) -> None:
    body = {"images": [data_url(image) for image in example.images], "decoding": decoding, "max_tokens": 20_000}
    with endpoint(script(example)) as engine, gateway(engine, tmp_path, max_model_len=32_768) as (url, engines):
        events = tell(url, body)
        whole = httpx.post(f"{url}/v1/stories", json=body, timeout=60, trust_env=False)
        assert engines.requests == 0

    assert [name for name, _ in events if name in ("done", "error")] == ["done"]
    assert events[-1] == ("done", whole.json())
    assert heard(events) == whole.json()["answer"]
    assert whole.json()["mended"] == (1 if decoding == "grounded" else 0)
    assert whole.json()["valid"] is (decoding == "grounded")
    assert of(events, "row") and of(events, "span") and of(events, "view")


@pytest.mark.server
def test_a_story_is_requested_with_the_prompt_its_model_was_scored_with(
    frames: tuple[bytes, ...], tmp_path: Path
) -> None:
    asked: list[list[str]] = []

    def reply(body: dict[str, Any]) -> Reply:
        asked.append([part.get("text", part["type"]) for part in body["messages"][1]["content"]])
        return complete("Once.")

    scored = GenerationConfig(images_first=False, request="Tell it.")
    with endpoint(reply) as engine, gateway(engine, tmp_path) as (url, engines):
        engines.served = state.Served("model", "1", None, "", engines.config.engine(), scored.prompt())
        for more in ({}, {"request": "Be brief."}):
            body = {"images": [data_url(frames[0])], "decoding": "free", **more}
            httpx.post(f"{url}/v1/stories", json=body, timeout=60, trust_env=False).raise_for_status()

    assert asked == [["Tell it.", "image_url"], ["Be brief.", "image_url"]]


@pytest.mark.server
def test_boxes_are_in_pixels_of_the_original_whatever_the_model_counts(
    frames: tuple[bytes, ...], tmp_path: Path
) -> None:
    told = (
        f"<think>\n## Image 1\n\n{OBJECTS.top}\n| obj1 | kite | toy | flown | hope | 500,250,1000,1000 |\n</think>\n"
        "<gdi image1>\nA <gdo obj1>kite</gdo>.\n</gdi>"
    )

    def reply(body: dict[str, Any]) -> Reply:
        return stream(told[at : at + 9] for at in range(0, len(told), 9)) if body.get("stream") else complete(told)

    body = {"images": [data_url(frames[0])], "decoding": "free"}
    with endpoint(reply) as engine, gateway(engine, tmp_path) as (url, engines):
        prompt = GenerationConfig(boxes="thousandths").prompt()
        engines.served = state.Served("model", "1", None, "", engines.config.engine(), prompt)
        whole = httpx.post(f"{url}/v1/stories", json=body, timeout=60, trust_env=False).text
        live = "".join(map(str, tell(url, body)))

    for found in (whole, live):
        assert "98,28,196,112" in found
        assert "500,250" not in found


@pytest.mark.server
def test_an_error_of_the_engine_ends_the_stream_with_a_sentence(frames: tuple[bytes, ...], tmp_path: Path) -> None:
    body = {"images": [data_url(frames[0])], "decoding": "free"}
    with (
        endpoint(lambda _: refusal(400, "too long")) as engine,
        gateway(engine, tmp_path) as (url, _),
    ):
        events = tell(url, body)
        images = {"images": ["nonsense"]}
        headers = {"accept": "text/event-stream"}
        refused = httpx.post(f"{url}/v1/stories", json=images, headers=headers, timeout=60, trust_env=False)

    assert [name for name, _ in events] == ["error"]
    assert events[0][1]["error"]["code"] == 422 and "too long" in events[0][1]["error"]["message"]
    assert refused.status_code == 400 and "not a picture" in refused.json()["error"]["message"]


@pytest.mark.server
@pytest.mark.parametrize("piece", ["once ", ""])
@pytest.mark.parametrize("live", [True, False])
def test_closing_the_connection_cancels_the_request_at_the_engine(
    piece: str, live: bool, frames: tuple[bytes, ...], tmp_path: Path
) -> None:
    """Also before the first token, while the thread that reads from the engine is blocked."""
    begun, ended = threading.Event(), threading.Event()

    def forever(piece: str) -> Iterator[str]:
        begun.set()
        try:
            while True:
                time.sleep(0.02)
                yield piece
        finally:
            ended.set()

    def reply(body: dict[str, Any]) -> Reply:
        if body.get("stream"):
            return stream(forever(piece))
        return 200, forever(" ")  # spaces before an answer that never comes

    body = {"images": [data_url(frames[0])], "decoding": "free"}
    headers = {"accept": "text/event-stream"} if live else {}
    with endpoint(reply) as engine, gateway(engine, tmp_path) as (url, engines):
        with (
            contextlib.suppress(httpx.ReadTimeout),  # where there is nothing to read
            httpx.stream(
                "POST",
                f"{url}/v1/stories",
                json=body,
                headers=headers,
                timeout=httpx.Timeout(60, read=5),
                trust_env=False,
            ) as response,
        ):
            next(response.iter_lines())
        assert begun.wait(30)
        wait_for(ended.is_set, 30)
        wait_for(lambda: engines.requests == 0, 30)


@pytest.mark.server
def test_if_an_engine_dies_before_its_first_token_its_successor_answers(
    example: dataset.Example, tmp_path: Path
) -> None:
    body = {"images": [data_url(image) for image in example.images], "decoding": "free"}
    nobody = f"http://127.0.0.1:{free_port()}"
    with endpoint(script(example)) as engine, gateway(nobody, tmp_path) as (url, engines):

        class Dying(Scripted):
            def alive(self) -> bool:
                if engines.requests:  # it was asked: now it is dead, and its successor is there
                    self.lives, engines._engine = False, RunningEngine(Scripted(engine))  # type: ignore[arg-type]
                return self.lives

        engines._engine = RunningEngine(Dying(nobody))  # type: ignore[arg-type]
        events = tell(url, body)
    assert events[-1][0] == "done"
