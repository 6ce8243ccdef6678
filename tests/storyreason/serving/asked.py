"""Shared by the hostile tests: a gateway that needs a key, requests, and helpers to send them."""

import base64
import contextlib
import json
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from storyreason.serving import state
from tests.storyreason.generation.endpoint import Reply, answer, endpoint
from tests.storyreason.serving.scripted import gateway

KEY = "key-of-a-friend-0123456789"
FRIEND = {"authorization": f"Bearer {KEY}"}
LIST = "https://stories.example.org"
CHAT, STORIES, READ, DEPLOY = "/v1/chat/completions", "/v1/stories", "/v1/stories/read", "/admin/deploy"


def picture(width: int, height: int, said: tuple[int, int] | None = None) -> str:
    """A PNG as Base64; `said` is the size that its header claims."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    across, down = said or (width, height)
    head = across.to_bytes(4) + down.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    rows = zlib.compress((b"\0" + bytes(3 * width)) * height)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return base64.b64encode(png).decode()


def asking(link: Any, **more: Any) -> dict[str, Any]:
    """A request to the OpenAI interface with one picture."""
    content = [{"type": "image_url", "image_url": link}, {"type": "text", "text": "What is it?"}]
    return {"model": "storyteller", "messages": [{"role": "user", "content": content}], **more}


SMALL = picture(8, 8)


@pytest.fixture(scope="module")
def engine() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An engine that answers anything, and the requests it received."""
    asked: list[dict[str, Any]] = []

    def reply(body: dict[str, Any]) -> Reply:
        asked.append(body)
        return answer("once")

    with endpoint(reply) as url:
        yield url, asked


@pytest.fixture(scope="module")
def url(engine: tuple[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway with keys, a limit of 1 MiB in 2 s, and one allowed origin."""
    settings: dict[str, Any] = {"max_body_mb": 1, "body_timeout": 2, "allowed_origins": (LIST,)}
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
