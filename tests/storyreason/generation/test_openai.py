"""One story from an endpoint."""

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from storyreason import chat, dataset
from storyreason.errors import DataError, EngineAwayError, EngineError
from storyreason.generation import Chunk, GenerationConfig, tell
from storyreason.generation.openai import Endpoint, Stop
from storyreason.generation.vllm import VllmServer
from storyreason.pictures import data_url
from tests.storyreason.generation.endpoint import Reply, answer, endpoint, refusal, stream
from tests.storyreason.odd import PICTURES as ODD

CONFIG = GenerationConfig(request="Tell a story that connects these images.", max_tokens=9)
PICTURES = tuple(ODD[name].encoded for name in ("PNG", "JPEG", "WebP"))


def test_the_request_is_the_chat_of_training_with_pictures_as_data_urls() -> None:
    seen: list[dict[str, Any]] = []

    def reply(body: dict[str, Any]) -> Reply:
        seen.append(body)
        return answer("once")

    with endpoint(reply) as url:
        told = tell(url, "teller", PICTURES, CONFIG)

    assert (told.text, told.cut, told.prompt_tokens, told.tokens) == ("once", False, 7, 3)
    system, user = seen[0]["messages"]
    assert system == {"role": "system", "content": chat.SYSTEM_PROMPT}
    urls = [part["image_url"]["url"] for part in user["content"][:-1]]
    assert urls == [data_url(picture) for picture in PICTURES]
    assert [url.split(";")[0] for url in urls] == ["data:image/png", "data:image/jpeg", "data:image/webp"]
    assert user["content"][-1] == {"type": "text", "text": CONFIG.request}
    assert seen[0]["model"] == "teller" and seen[0]["max_tokens"] == 9 and seen[0]["temperature"] == 0


def test_vllm_is_told_all_of_the_sampling_and_other_endpoints_only_what_they_know() -> None:
    seen: list[dict[str, Any]] = []

    def reply(body: dict[str, Any]) -> Reply:
        seen.append(body)
        return answer("once")

    with endpoint(reply) as url:
        session = Endpoint(url, "teller").session(PICTURES, CONFIG)
        session.tell()
        session.tell(grammar='root ::= "once"')

    neutral = {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0, "top_k": 0, "min_p": 0}
    assert seen[0].keys() == {"model", "messages", "temperature", "top_p", "seed", "max_tokens"}
    assert seen[1] == seen[0] | neutral | {"structured_outputs": {"grammar": 'root ::= "once"'}}


def test_an_unreadable_picture_is_named_before_anything_is_sent() -> None:
    with pytest.raises(DataError, match=r"image 2 does not decode as a picture \(unknown picture format\)"):
        tell("http://127.0.0.1:1", "teller", [PICTURES[0], b"no picture"], CONFIG)


def test_the_request_may_come_first_and_the_length_may_be_left_open() -> None:
    seen: list[dict[str, Any]] = []

    def reply(body: dict[str, Any]) -> Reply:
        seen.append(body)
        return answer("once", finish="length")

    with endpoint(reply) as url:
        told = tell(f"{url}/v1/", "teller", PICTURES, GenerationConfig(images_first=False))

    assert told.cut
    assert [part["type"] for part in seen[0]["messages"][1]["content"]] == ["text"] + 3 * ["image_url"]
    assert "max_tokens" not in seen[0]


def test_line_separators_that_json_allows_do_not_break_a_stream() -> None:
    pieces = ["one\u2028two", "three\u2029\x85four", "caf\u00e9 \U0001f600"]
    chunks: list[Chunk] = []

    with endpoint(lambda _: stream(pieces)) as url:
        told = tell(url, "teller", PICTURES, CONFIG, on_chunk=chunks.append)

    assert told.text == "".join(pieces)
    assert [chunk.text for chunk in chunks if chunk.text] == pieces


@pytest.mark.parametrize(
    ("reply", "kind", "sentence"),
    [
        (refusal(503, "overloaded"), EngineAwayError, "503: overloaded"),
        (refusal(429, "too many"), EngineAwayError, "429: too many"),
        (refusal(400, "too long"), EngineError, "400: too long"),
        ((404, "<h1>nothing here</h1>"), EngineError, "404: <h1>nothing here</h1>"),
        ((200, "<h1>welcome</h1>"), EngineError, "not an OpenAI-compatible endpoint"),
        ((200, '{"choices": []}'), EngineError, "not an OpenAI-compatible endpoint"),
        ((200, "[]"), EngineError, "not an OpenAI-compatible endpoint"),
    ],
)
def test_every_failure_is_one_sentence(reply: tuple[int, str], kind: type[EngineError], sentence: str) -> None:
    with endpoint(lambda _: reply) as url, pytest.raises(EngineError) as caught:
        tell(url, "teller", PICTURES, CONFIG)

    assert type(caught.value) is kind
    assert sentence in str(caught.value)


def test_an_unreachable_endpoint_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        with pytest.raises(EngineAwayError, match=f":{taken.getsockname()[1]}/v1/chat/completions did not answer"):
            tell(f"http://127.0.0.1:{taken.getsockname()[1]}", "teller", PICTURES, CONFIG)


@pytest.mark.server
def test_vllm_gives_the_same_answer_whole_and_streamed(vllm_server: VllmServer, frames: tuple[bytes, ...]) -> None:
    config = GenerationConfig(max_tokens=40)
    pieces: list[Chunk] = []

    whole = tell(vllm_server.url, vllm_server.name, frames, config)
    streamed = tell(vllm_server.url, vllm_server.name, frames, config, on_chunk=pieces.append)

    assert whole == streamed
    assert "".join(piece.text for piece in pieces) == whole.text and len(pieces) > 1
    assert pieces[-1].tokens == 40 and not any(piece.back for piece in pieces)
    assert whole.tokens == 40 and whole.cut


@pytest.mark.server
def test_vllm_samples_with_seeds_for_many_at_once(vllm_server: VllmServer, examples: list[dataset.Example]) -> None:
    """Prompts too long for one step are prefilled in parts: on a CPU this once crashed the engine if they had a seed."""
    request = "Create a story based on these images. " * 150

    def sampled(seed: int) -> str:
        config = GenerationConfig(request=request, max_tokens=8, temperature=1.0, seed=seed)
        return tell(vllm_server.url, vllm_server.name, examples[seed % len(examples)].images, config).text

    with ThreadPoolExecutor(6) as pool:
        texts = list(pool.map(sampled, range(6)))

    assert len(set(texts)) > 1
    vllm_server.probe()


@pytest.mark.server
def test_vllm_rejects_with_a_sentence(vllm_server: VllmServer, frames: tuple[bytes, ...]) -> None:
    with pytest.raises(EngineError, match=r"400: At most 22 image"):
        tell(vllm_server.url, vllm_server.name, frames * 5, CONFIG)
    with pytest.raises(EngineError, match=r"404: .*nobody"):
        tell(vllm_server.url, "nobody", frames, CONFIG)


def test_a_cancelled_stream_ends_at_the_next_chunk_even_if_all_of_it_has_arrived() -> None:
    stop, heard = Stop(), []

    def hear(chunk: Chunk) -> None:
        heard.append(chunk.text)
        stop.set()

    with endpoint(lambda _: stream(["once"] * 1000)) as url, pytest.raises(EngineAwayError):
        tell(url, "m", [], GenerationConfig(), on_chunk=hear, stop=stop)
    assert heard == ["once"]
