"""Hostile requests: each gets its status and its sentence, and the gateway goes on serving."""

import base64
import contextlib
import io
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from pydantic import ValidationError

from storyreason import dataset
from storyreason.errors import GatewayError
from storyreason.generation.openai import data_url
from storyreason.serving import state
from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import Engine
from storyreason.serving.stories import Asked, _parsed
from tests.storyreason.generation.endpoint import Reply, answer, endpoint, refusal
from tests.storyreason.serving.scripted import Scripted, gateway
from tests.storyreason.test_guard import wait_for

pytestmark = pytest.mark.server

KEY = "key-of-a-friend-0123456789"
FRIEND = {"authorization": f"Bearer {KEY}"}
LIST = "https://stories.example.org"


def picture(width: int, height: int, said: tuple[int, int] | None = None) -> str:
    """A PNG as Base64; `said` is the size that its header claims."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    across, down = said or (width, height)
    head = across.to_bytes(4) + down.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    rows = zlib.compress((b"\0" + bytes(3 * width)) * height)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return base64.b64encode(png).decode()


def tiff() -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "TIFF")
    return base64.b64encode(file.getvalue()).decode()


def asking(link: Any, **more: Any) -> dict[str, Any]:
    """A request to the OpenAI interface with one picture."""
    content = [{"type": "image_url", "image_url": link}, {"type": "text", "text": "What is it?"}]
    return {"model": "storyteller", "messages": [{"role": "user", "content": content}], **more}


SMALL, BOMB = picture(8, 8), picture(8, 8, said=(50_000, 50_000))
LARGE = picture(8, 8, said=(7_000, 5_000))  # 35 million pixels, one of which may come
CHAT, STORIES, READ, DEPLOY = "/v1/chat/completions", "/v1/stories", "/v1/stories/read", "/admin/deploy"
FETCHES_NOTHING = "the gateway fetches nothing: send the picture as a data URL."

HOSTILE = [
    # what is sent where, and what comes of it
    ("bomb", STORIES, {"images": [BOMB]}, 400, "Image 1 "),
    ("bomb, second", STORIES, {"images": [SMALL, BOMB]}, 400, "Image 2 "),
    ("bomb to the engine", CHAT, asking({"url": f"data:image/png;base64,{BOMB}"}), 400, "Image 1 "),
    ("bomb to read", READ, {"answer": "", "images": [BOMB]}, 400, "Image 1 "),
    ("many large pictures", STORIES, {"images": [LARGE] * 6}, 400, "pixels together: send 200,000,000 at most."),
    ("10,000 images", STORIES, {"images": [SMALL[:40]] * 10_000}, 400, "10000 images are too many: send 22 at most"),
    ("10,000 to read", READ, {"answer": "", "images": [""] * 10_000}, 400, "10000 images are too many"),
    ("a format of ancient libraries", STORIES, {"images": [tiff()]}, 400, "Image 1 is no picture in Base64"),
    ("no picture", STORIES, {"images": ["aGFsbG8="]}, 400, "Image 1 is no picture in Base64"),
    ("no Base64", STORIES, {"images": ["data:image/png;base64,\u2603"]}, 400, "Image 1 is no picture in Base64"),
    ("no images", STORIES, {"images": []}, 400, "images: "),
    ("images of a wrong type", STORIES, {"images": {"1": SMALL}}, 400, "images: "),
    ("numbers for images", STORIES, {"images": [1, 2]}, 400, "images.0: "),
    ("a field of somebody else's", STORIES, {"images": [SMALL], "endpoint": "http://10.0.0.1"}, 400, "endpoint: Extra"),
    ("too hot", STORIES, {"images": [SMALL], "temperature": 1e308}, 400, "temperature: "),
    ("too long", STORIES, {"images": [SMALL], "max_tokens": 10**9}, 400, "max_tokens: ask for 4096 at most"),
    ("a novel to read", READ, {"answer": "a" * 500_001}, 400, "answer: String should have at most 500000 characters"),
    ("a thousand fields", STORIES, {str(n): 1 for n in range(1000)}, 400, "The body has 1000 fields: send images, request"),
    ("a request of a novel", STORIES, {"images": [SMALL], "request": "a" * 5000}, 400, "request: "),
    ("a file", STORIES, {"images": ["file:///etc/passwd"]}, 400, "Image 1 is no picture in Base64"),
    ("a path", STORIES, {"images": ["../../../etc/passwd"]}, 400, "Image 1 is no picture in Base64"),
    ("an address", STORIES, {"images": ["http://127.0.0.1:1/x.png"]}, 400, "Image 1 is no picture in Base64"),
    ("fetch for me", CHAT, asking({"url": "http://127.0.0.1:1/x.png"}), 400, FETCHES_NOTHING),
    ("fetch in short", CHAT, asking("https://169.254.169.254/latest/meta-data"), 400, FETCHES_NOTHING),
    ("fetch a file", CHAT, asking({"url": "file:///etc/passwd"}), 400, FETCHES_NOTHING),
    ("fetch in capitals", CHAT, asking({"url": "HTTP://127.0.0.1:1"}), 400, FETCHES_NOTHING),
    ("fetch with a blank", CHAT, asking({"url": " data:,"}), 400, FETCHES_NOTHING),
    ("fetch a film", CHAT, {"messages": [{"content": [{"video_url": {"url": "http://x/"}}]}]}, 400, FETCHES_NOTHING),
    ("fetch by another interface", "/v1/responses", {"input": [{"content": [{"type": "input_image", "image_url":
        "http://127.0.0.1:1"}]}]}, 400, FETCHES_NOTHING),
    ("fetch by a third", "/v1/messages", {"messages": [{"content": [{"type": "image", "source": {"type": "url", "url":
        "http://127.0.0.1:1"}}]}]}, 400, FETCHES_NOTHING),
    ("a thousand answers", CHAT, asking({"url": f"data:,{SMALL}"}, n=1000), 400, "n is 1000: ask for 8 answers at most."),
    ("a thousand prompts", "/v1/completions", {"prompt": ["a"] * 1000}, 400, "There are 1000 prompts: send 8 at most."),
    ("a thousand in words", CHAT, {"n": "1000"}, 400, "n is no number: ask for 8 answers at most."),
    ("a hundred conversations", f"{CHAT}/batch", {"messages": [[]] * 100}, 400, "There are 100 conversations: send 8"),
    ("no object", CHAT, [1, 2], 400, "The body is no JSON object."),
    ("no JSON", CHAT, b"{", 400, "The body is no JSON."),
    ("no JSON for a story", STORIES, b"\xff{", 400, "Invalid JSON"),
    ("no JSON to read", READ, b"", 400, "Invalid JSON"),
    ("no object to read", READ, [1, 2], 400, "Input should be an object"),
    ("a deep well", CHAT, b'{"a":' + b"[" * 200_000, 400, "The body is no JSON."),
    ("a deep well of a story", STORIES, b"[" * 200_000, 400, "Invalid JSON"),
    ("a closed well", CHAT, b'{"a":' + b"[" * 900 + b"]" * 900 + b"}", 200, ""),
    ("huge JSON", CHAT, b'{"a":"' + b"a" * 2**21 + b'"}', 413, "The request is larger than 1 MiB (serving.max_body_mb)."),
    ("huge JSON for a story", STORIES, b" " * (2**20 + 1), 413, "The request is larger than 1 MiB"),
    ("huge JSON to count", "/tokenize", b" " * (2**20 + 1), 413, "The request is larger than 1 MiB"),
    ("out of the folder", "/v1/../admin/status", b"", 401, "the token"),
    ("out of the folder, hidden", "/v1/..%2f..%2fetc/passwd", {}, 200, ""),  # a name like any other, for the engine to refuse
    ("nothing there", "/etc/passwd", {}, 404, "Not Found"),
]  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An engine that answers anything, and what it was asked."""
    asked: list[dict[str, Any]] = []

    def reply(body: dict[str, Any]) -> Reply:
        asked.append(body)
        return answer("once")

    with endpoint(reply) as url:
        yield url, asked


@pytest.fixture(scope="module")
def url(engine: tuple[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway that wants a key, takes a mebibyte within two seconds, and lets one site's pages in."""
    settings = {"max_body_mb": 1, "body_timeout": 2, "allowed_origins": (LIST,)}
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # while it starts; later gateways are to want no key
            patch.setenv(state.KEYS, f"{KEY}, another-key-9876543210")
            url, _ = stack.enter_context(gateway(engine[0], tmp_path_factory.mktemp("runs"), **settings))
        yield url


def post(url: str, path: str, body: Any, headers: dict[str, str] = FRIEND) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        url + path,
        content=content,
        headers={"content-type": "application/json", **headers},
        timeout=60,
        trust_env=False,
    )


def says(response: httpx.Response) -> str:
    return str(response.json()["error"]["message"])


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"), [row[1:] for row in HOSTILE], ids=[r[0] for r in HOSTILE]
)
def test_it_is_refused_with_a_sentence_and_the_next_one_is_served(
    url: str, engine: tuple[str, list[Any]], path: str, body: Any, status: int, sentence: str
) -> None:
    before = len(engine[1])
    answered = post(url, path, body)

    assert answered.status_code == status, answered.text
    if status != 200:
        assert sentence in says(answered)
        assert len(engine[1]) == before, "the engine heard of it"
    served = post(url, CHAT, asking({"url": f"data:image/png;base64,{SMALL}"}))
    assert (served.status_code, served.json()["choices"][0]["message"]["content"]) == (200, "once")


@pytest.mark.parametrize("path", [CHAT, STORIES, READ, "/tokenize", "/v1/models"])
@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer key-of-a-friend", f"Basic {KEY}", "Bearer é"])
def test_without_a_key_nothing_is_answered(url: str, path: str, shown: str) -> None:
    refused = httpx.post(
        url + path, headers={b"authorization": shown.encode("latin-1")}, content=b"{}", trust_env=False
    )
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert says(refused) == "This needs an API key, as `Authorization: Bearer <key>`."


def test_each_key_opens_and_none_of_them_administers(url: str) -> None:
    for key in (KEY, "another-key-9876543210"):
        headers = {"authorization": f"Bearer {key}"}
        assert post(url, CHAT, {"messages": []}, headers).status_code == 200
        for path in (DEPLOY, "/admin/stop", "/admin/nothing", "/admin"):
            assert post(url, path, {"folder": "/", "version": "1"}, headers).status_code == 401
    assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200


def test_a_page_from_elsewhere_gets_nothing_and_one_of_the_list_does(url: str) -> None:
    for origin in ("https://evil.example", "null", LIST + ".evil.example", "http://127.0.0.1:1"):
        refused = post(url, CHAT, {"messages": []}, {**FRIEND, "origin": origin})
        assert refused.status_code == 403 and "may not use this gateway" in says(refused)
        assert "access-control-allow-origin" not in refused.headers
    welcome = post(url, CHAT, {"messages": []}, {**FRIEND, "origin": LIST})
    assert (welcome.status_code, welcome.headers["access-control-allow-origin"]) == (200, LIST)
    same = post(url, CHAT, {"messages": []}, {**FRIEND, "origin": url})
    assert same.status_code == 200

    asked = {"origin": LIST, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed = httpx.options(url + STORIES, headers=asked, trust_env=False)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, LIST)
    foreign = httpx.options(url + STORIES, headers={**asked, "origin": "https://evil.example"}, trust_env=False)
    assert foreign.status_code == 400 and "access-control-allow-origin" not in foreign.headers


def test_a_name_of_somebody_elses_that_leads_here_is_refused(url: str) -> None:
    for host in ("evil.example", f"evil.example:{urlsplit(url).port}", "127.0.0.1.evil.example"):
        refused = httpx.get(f"{url}/healthz", headers={"host": host}, trust_env=False)
        assert refused.status_code == 403 and "for this machine alone" in says(refused)


@pytest.mark.parametrize("header", [{"host": "["}, {"origin": "http://["}])
def test_a_host_or_an_origin_that_is_no_address_is_refused(url: str, header: dict[str, str]) -> None:
    refused = httpx.get(f"{url}/healthz", headers=header, trust_env=False)
    assert refused.status_code == 400 and "is no address" in says(refused)


def raw(url: str, head: str, *bodies: bytes, pause: float = 0.0) -> bytes:
    """What comes back over a bare connection, until it is closed."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port or 80), timeout=60) as connection:
        connection.sendall(f"{head}\r\nHost: {place.netloc}\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        parts = []
        with contextlib.suppress(ConnectionError):  # closed while there was more to come, which a reset says
            for body in bodies:
                connection.sendall(body)
                time.sleep(pause)
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("path", [CHAT, STORIES, "/tokenize"])
def test_a_body_that_comes_slowly_is_given_up(url: str, path: str) -> None:
    said = raw(url, f"POST {path} HTTP/1.1\r\nContent-Length: 1000", b"{", b" ", b" ", pause=0.1)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"The request did not arrive within 2 s (serving.body_timeout)." in said


def test_a_body_without_a_length_is_counted_while_it_comes(url: str) -> None:
    chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
    said = raw(url, f"POST {STORIES} HTTP/1.1\r\nTransfer-Encoding: chunked", *[chunk] * 17)
    assert said.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", [STORIES, "/nothing/there"])
def test_who_goes_on_sending_after_the_answer_does_not_keep_the_connection(url: str, path: str) -> None:
    chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
    said = raw(url, f"POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked", *[chunk] * 20, pause=0.1)
    assert said.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 404 "))
    assert b"connection: close" in said


def test_a_body_that_says_it_is_huge_is_not_waited_for(url: str) -> None:
    assert raw(url, f"POST {CHAT} HTTP/1.1\r\nContent-Length: 99999999999").startswith(b"HTTP/1.1 413 ")


def test_a_slow_deployment_and_a_huge_one_want_the_token_first(url: str) -> None:
    said = raw(url, f"POST {DEPLOY} HTTP/1.1\r\nContent-Length: 99999999999\r\nConnection: close")
    assert said.startswith(b"HTTP/1.1 401 ")


def test_no_more_at_a_time_than_there_may_be(tmp_path: Path, frames: tuple[bytes, ...]) -> None:
    """The third is told to come again, and is served when it does."""
    waiting: list[int] = []

    def reply(body: dict[str, Any]) -> Reply:
        waiting.append(1)
        wait_for(lambda: len(waiting) > 2, 60)
        return answer("once")

    body = asking({"url": data_url(frames[0])})
    with (
        endpoint(reply) as engine,
        gateway(engine, tmp_path, max_requests=2) as (url, _),
        ThreadPoolExecutor(2) as pool,
    ):
        first = [pool.submit(post, url, CHAT, body, {}) for _ in range(2)]
        wait_for(lambda: len(waiting) == 2, 60)
        for path in (CHAT, STORIES):
            refused = post(url, path, body, {})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
            assert "2 requests are being answered, and no more at a time (serving.max_requests)" in says(refused)
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        waiting.append(1)
        assert [one.result().status_code for one in first] == [200, 200]
        assert post(url, CHAT, body, {}).status_code == 200


def test_every_answer_carries_the_headers_that_keep_a_browser_safe(url: str) -> None:
    for answered in (httpx.get(f"{url}/healthz", trust_env=False), post(url, CHAT, b"{")):
        assert answered.headers["x-content-type-options"] == "nosniff"
        assert answered.headers["x-frame-options"] == "DENY"


def test_keys_come_from_a_file_too_and_are_not_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.delenv(state.KEYS, raising=False)
    assert state.api_keys() == ()
    (state.folder() / "api-keys").write_text(f"{KEY}\n\nanother-key-9876543210\n")
    assert state.api_keys() == (KEY, "another-key-9876543210")
    monkeypatch.setenv(state.KEYS, "short")
    with pytest.raises(GatewayError, match="An API key has 16 characters or more") as caught:
        state.api_keys()
    assert "'short'" not in str(caught.value)


@pytest.mark.parametrize("origin", ["*", "example.org", "https://example.org/", "https://example.org/page"])
def test_what_is_no_origin_is_no_setting(origin: str) -> None:
    with pytest.raises(ValueError, match=r"is no origin: write it as https://example\.org, without a path"):
        ServingConfig(allowed_origins=(origin,))


def test_a_long_answer_to_read_takes_no_longer_than_its_length(url: str, examples: list[dataset.Example]) -> None:
    many = "<think>\n" + "".join(f"## Image {number}\n" for number in range(30_000))
    for text in (many, "<think>\n" + "|" * 400_000, "<gdo " * 80_000, "<think></think>" + "<gdi image1>" * 30_000):
        answered = post(url, READ, {"answer": text})
        assert answered.status_code == 200 and answered.json()["valid"] is False


def test_of_a_million_wrong_images_one_is_told() -> None:
    with pytest.raises(ValidationError) as caught:
        _parsed(Asked, b'{"images": [' + b"1, " * 100_000 + b"1]}")
    assert caught.value.error_count() < 3


@pytest.fixture(scope="module")
def impatient(engine: tuple[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway that waits a second for the head of a request."""
    with gateway(engine[0], tmp_path_factory.mktemp("runs"), head_timeout=1) as (url, _):
        yield url


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def until_closed(url: str, *parts: bytes) -> bytes:
    """What comes back until the connection is closed, which it is to be within seconds."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port or 80), timeout=20) as connection:
        said = b""
        for part in parts:
            connection.sendall(part)
        while came := connection.recv(65536):
            said += came
    return said


@pytest.mark.parametrize("parts", [[], [b"\r\n"], [b"GET /heal"], [HEALTH[:-2]], [HEALTH[:-2], b"X-A: b\r\n"]])
def test_a_head_that_does_not_come_to_its_end_is_given_up(impatient: str, parts: list[bytes]) -> None:
    assert until_closed(impatient, *parts) == b""


def test_a_byte_after_an_answer_does_not_keep_the_connection(impatient: str) -> None:
    place = urlsplit(impatient)
    with socket.create_connection((place.hostname, place.port or 80), timeout=20) as connection:
        connection.sendall(HEALTH)
        assert connection.recv(65536).startswith(b"HTTP/1.1 ")
        connection.sendall(b"G")
        while connection.recv(65536):
            pass


def test_requests_in_one_breath_are_all_answered(impatient: str) -> None:
    assert until_closed(impatient, HEALTH * 5 + HEALTH[:-2]).count(b"HTTP/1.1 ") == 5


def test_an_answer_may_take_longer_than_a_head(tmp_path: Path, frames: tuple[bytes, ...]) -> None:
    """A request that came whole is waited for, and so is the next one on its connection."""
    slow = threading.Event()
    threading.Timer(2, slow.set).start()

    def reply(body: dict[str, Any]) -> Reply:
        assert slow.wait(60)
        return answer("once")

    with (
        endpoint(reply) as engine,
        gateway(engine, tmp_path, head_timeout=1) as (url, _),
        httpx.Client(timeout=60, trust_env=False) as client,
    ):
        for _ in range(2):
            assert client.post(url + CHAT, json=asking({"url": data_url(frames[0])})).status_code == 200


@pytest.mark.parametrize(
    "head", [b"GET /" + b"a" * 10**6, HEALTH[:-2] + b"A: " + b"a" * 10**6, HEALTH[:-2] + b"A: b\r\n" * 10**5]
)
def test_a_head_without_measure_is_refused(url: str, head: bytes) -> None:
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port or 80), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):  # closed while there was more to come
            connection.sendall(head)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_a_request_that_ends_every_engine_is_sent_to_two(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def reply(body: dict[str, Any]) -> Reply:
        asked.append(body)
        engines._engine.server.lives = len(asked) > 4
        engines._engine = Engine(Scripted(engine))  # type: ignore[arg-type]
        return answer("once") if len(asked) > 4 else refusal(500, "The engine's core has died.")

    with endpoint(reply) as engine, gateway(engine, tmp_path) as (url, engines):
        for path, body in ((CHAT, asking({"url": f"data:image/png;base64,{SMALL}"})), (STORIES, {"images": [SMALL]})):
            asked.clear()
            refused = post(url, path, body, {})
            assert (refused.status_code, len(asked)) == (502, 2)
            assert "2 engines ended at this request" in says(refused)


def test_whatever_has_a_body_takes_a_place(tmp_path: Path) -> None:
    with gateway("http://127.0.0.1:9", tmp_path, max_requests=1, body_timeout=5) as (url, _):
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port or 80), timeout=60) as connection:
            connection.sendall(f"PUT {CHAT} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 9\r\n\r\n".encode())
            wait_for(lambda: post(url, READ, {"answer": ""}, {}).status_code == 429, 4)
