"""Hostile requests: each gets its status and sentence, and the gateway keeps serving."""

import base64
import io
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from pydantic import ValidationError

from storyreason import dataset
from storyreason.errors import GatewayError
from storyreason.serving import state
from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import RunningEngine
from storyreason.serving.requests import StoryRequest, parsed
from tests.storyreason.generation.endpoint import Reply, answer, endpoint, refusal
from tests.storyreason.odd import PICTURES as ODD
from tests.storyreason.odd import text as base64_of
from tests.storyreason.serving.asked import (
    CHAT,
    DEPLOY,
    FRIEND,
    KEY,
    LIST,
    READ,
    SMALL,
    STORIES,
    asking,
    picture,
    post,
    says,
)
from tests.storyreason.serving.scripted import Scripted, gateway

pytestmark = pytest.mark.server


def tiff() -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "TIFF")
    return base64.b64encode(file.getvalue()).decode()


BOMB = picture(8, 8, said=(50_000, 50_000))
LARGE = picture(8, 8, said=(7_000, 5_000))  # 35 million pixels, one of which may come
CUT, SCANS, THIN = (base64_of(ODD[name].encoded) for name in ("MPO, cut", "JPEG of 1,000 scans", "thin"))
FETCHES_NOTHING = "the gateway fetches nothing: send the picture as a data URL."

HOSTILE = [
    # what is sent where, and what comes of it
    ("bomb", STORIES, {"images": [BOMB]}, 400, "Image 1 "),
    ("bomb, second", STORIES, {"images": [SMALL, BOMB]}, 400, "Image 2 "),
    ("bomb to the engine", CHAT, asking({"url": f"data:image/png;base64,{BOMB}"}), 400, "Image 1 "),
    ("bomb to read", READ, {"answer": "", "images": [BOMB]}, 400, "Image 1 "),
    ("many large pictures", STORIES, {"images": [LARGE] * 6}, 400, "pixels in total: send 200,000,000 at most."),
    ("10,000 images", STORIES, {"images": [SMALL[:40]] * 10_000}, 400, "The request has 10000 images: send 22 at most"),
    ("10,000 to read", READ, {"answer": "", "images": [""] * 10_000}, 400, "The request has 10000 images"),
    ("a format of ancient libraries", STORIES, {"images": [tiff()]}, 400, "Image 1 is not a picture in Base64"),
    ("a phone's picture that breaks off", STORIES, {"images": [SMALL, CUT]}, 400, "Image 2 is not a picture"),
    ("the same to read", READ, {"answer": "", "images": [CUT]}, 400, "Image 1 is not a picture"),
    ("the same to the engine", CHAT, asking({"url": f"data:image/jpeg;base64,{CUT}"}), 400, "Image 1 is not a picture"),
    ("the same by another interface", "/v1/messages", {"messages": [{"role": "user", "content": [{"type": "image",
        "source": {"type": "base64", "media_type": "image/jpeg", "data": CUT}}]}]}, 400, "Image 1 is not a picture"),
    ("more scans than a picture", READ, {"answer": "", "images": [SCANS]}, 400, "scans, 100 at most"),
    ("a thin picture", STORIES, {"images": [THIN]}, 400, "the longer side may be 200 times the shorter at most"),
    ("no picture", STORIES, {"images": ["aGFsbG8="]}, 400, "Image 1 is not a picture in Base64"),
    ("no Base64", STORIES, {"images": ["data:image/png;base64,\u2603"]}, 400, "Image 1 is not a picture in Base64"),
    ("no images", STORIES, {"images": []}, 400, "images: "),
    ("images of a wrong type", STORIES, {"images": {"1": SMALL}}, 400, "images: "),
    ("numbers for images", STORIES, {"images": [1, 2]}, 400, "images.0: "),
    ("a field of somebody else's", STORIES, {"images": [SMALL], "endpoint": "http://10.0.0.1"}, 400, "endpoint: Extra"),
    ("too hot", STORIES, {"images": [SMALL], "temperature": 1e308}, 400, "temperature: "),
    ("too long", STORIES, {"images": [SMALL], "max_tokens": 10**9}, 400, "max_tokens: 4096 at most"),
    ("a novel to read", READ, {"answer": "a" * 500_001}, 400, "answer: String should have at most 500000 characters"),
    ("a thousand fields", STORIES, {str(n): 1 for n in range(1000)}, 400, "The body has 1000 fields: send only images, request"),
    ("a request of a novel", STORIES, {"images": [SMALL], "request": "a" * 5000}, 400, "request: "),
    ("a file", STORIES, {"images": ["file:///etc/passwd"]}, 400, "Image 1 is not a picture in Base64"),
    ("a path", STORIES, {"images": ["../../../etc/passwd"]}, 400, "Image 1 is not a picture in Base64"),
    ("an address", STORIES, {"images": ["http://127.0.0.1:1/x.png"]}, 400, "Image 1 is not a picture in Base64"),
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
    ("an address that is no input", CHAT, {"messages": [], "metadata": {"url": "https://x/"}}, 200, ""),
    ("an address in a schema", CHAT, {"messages": [], "tools": [{"function": {"parameters": {"examples": [
        {"url": "https://x/"}]}}}]}, 200, ""),
    ("an address deep in a message", CHAT, {"messages": [{"content": [{"metadata": {"url": "https://x/"}}]}]}, 400,
        FETCHES_NOTHING),
    ("a thousand answers", CHAT, asking({"url": f"data:,{SMALL}"}, n=1000), 400, "n is 1000: request 8 answers at most."),
    ("a thousand prompts", "/v1/completions", {"prompt": ["a"] * 1000}, 400, "The request has 1000 prompts: send 8 at most."),
    ("a thousand in words", CHAT, {"n": "1000"}, 400, "n is not a number: request 8 answers at most."),
    ("a hundred conversations", f"{CHAT}/batch", {"messages": [[]] * 100}, 400, "The request has 100 conversations: send 8"),
    ("no object", CHAT, [1, 2], 400, "The body is not a JSON object."),
    ("no JSON", CHAT, b"{", 400, "The body is not JSON."),
    ("no JSON for a story", STORIES, b"\xff{", 400, "The body is not JSON."),
    ("no JSON to read", READ, b"", 400, "The body is not JSON."),
    ("no object to read", READ, [1, 2], 400, "The body is not a JSON object."),
    ("a deep well", CHAT, b'{"a":' + b"[" * 200_000, 400, "The body is not JSON."),
    ("a deep well of a story", STORIES, b"[" * 200_000, 400, "The body is not JSON."),
    ("a closed well", CHAT, b'{"a":' + b"[" * 900 + b"]" * 900 + b"}", 200, ""),
    ("huge JSON", CHAT, b'{"a":"' + b"a" * 2**21 + b'"}', 413, "The request is larger than 1 MiB (serving.max_body_mb)."),
    ("huge JSON for a story", STORIES, b" " * (2**20 + 1), 413, "The request is larger than 1 MiB"),
    ("huge JSON to count", "/tokenize", b" " * (2**20 + 1), 413, "The request is larger than 1 MiB"),
    ("out of the folder", "/v1/../admin/status", b"", 401, "the token"),
    ("out of the folder, hidden", "/v1/..%2f..%2fetc/passwd", {}, 200, ""),  # a name like any other, for the engine to refuse
    ("nothing there", "/etc/passwd", {}, 404, "Not Found"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"), [row[1:] for row in HOSTILE], ids=[r[0] for r in HOSTILE]
)
def test_a_hostile_request_is_rejected_and_the_next_one_is_served(
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
def test_without_a_key_every_request_is_rejected(url: str, path: str, shown: str) -> None:
    refused = httpx.post(
        url + path, headers={b"authorization": shown.encode("latin-1")}, content=b"{}", trust_env=False
    )
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert says(refused) == "This route needs an API key: send `Authorization: Bearer <key>`."


def test_every_key_works_and_none_gives_access_to_administration(url: str) -> None:
    for key in (KEY, "another-key-9876543210"):
        headers = {"authorization": f"Bearer {key}"}
        assert post(url, CHAT, {"messages": []}, headers).status_code == 200
        for path in (DEPLOY, "/admin/stop", "/admin/nothing", "/admin"):
            assert post(url, path, {"folder": "/", "version": "1"}, headers).status_code == 401
    assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200


def test_only_pages_of_allowed_origins_may_use_the_gateway(url: str) -> None:
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


def test_a_foreign_host_name_is_rejected(url: str) -> None:
    for host in ("evil.example", f"evil.example:{urlsplit(url).port}", "127.0.0.1.evil.example"):
        refused = httpx.get(f"{url}/healthz", headers={"host": host}, trust_env=False)
        assert refused.status_code == 403 and "serves this machine only" in says(refused)


@pytest.mark.parametrize("header", [{"host": "["}, {"origin": "http://["}])
def test_a_malformed_host_or_origin_is_rejected(url: str, header: dict[str, str]) -> None:
    refused = httpx.get(f"{url}/healthz", headers=header, trust_env=False)
    assert refused.status_code == 400 and "is not an address" in says(refused)


def test_every_response_has_the_security_headers(url: str) -> None:
    for answered in (httpx.get(f"{url}/healthz", trust_env=False), post(url, CHAT, b"{")):
        assert answered.headers["x-content-type-options"] == "nosniff"
        assert answered.headers["x-frame-options"] == "DENY"


def test_keys_also_come_from_a_file_and_must_not_be_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.delenv(state.KEYS, raising=False)
    assert state.api_keys() == ()
    (state.folder() / "api-keys").write_text(f"{KEY}\n\nanother-key-9876543210\n")
    assert state.api_keys() == (KEY, "another-key-9876543210")
    monkeypatch.setenv(state.KEYS, "short")
    with pytest.raises(GatewayError, match="is too short: use 16 characters or more") as caught:
        state.api_keys()
    assert "'short'" not in str(caught.value)


@pytest.mark.parametrize("origin", ["*", "example.org", "https://example.org/", "https://example.org/page"])
def test_an_invalid_origin_is_rejected(origin: str) -> None:
    with pytest.raises(ValueError, match=r"is not an origin: write it as https://example\.org, without a path"):
        ServingConfig(allowed_origins=(origin,))


def test_reading_a_long_answer_takes_linear_time(url: str, examples: list[dataset.Example]) -> None:
    many = "<think>\n" + "".join(f"## Image {number}\n" for number in range(30_000))
    for text in (many, "<think>\n" + "|" * 400_000, "<gdo " * 80_000, "<think></think>" + "<gdi image1>" * 30_000):
        answered = post(url, READ, {"answer": text})
        assert answered.status_code == 200 and answered.json()["valid"] is False


def test_of_many_invalid_images_only_the_first_is_reported() -> None:
    with pytest.raises(ValidationError) as caught:
        parsed(StoryRequest, b'{"images": [' + b"1, " * 100_000 + b"1]}")
    assert caught.value.error_count() < 3


def test_a_request_that_kills_engines_is_sent_to_two_at_most(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def reply(body: dict[str, Any]) -> Reply:
        asked.append(body)
        engines._engine.server.lives = len(asked) > 4
        engines._engine = RunningEngine(Scripted(engine))  # type: ignore[arg-type]
        return answer("once") if len(asked) > 4 else refusal(500, "The engine's core has died.")

    with endpoint(reply) as engine, gateway(engine, tmp_path) as (url, engines):
        for path, body in ((CHAT, asking({"url": f"data:image/png;base64,{SMALL}"})), (STORIES, {"images": [SMALL]})):
            asked.clear()
            refused = post(url, path, body, {})
            assert (refused.status_code, len(asked)) == (502, 2)
            assert "2 engines died during this request" in says(refused)
