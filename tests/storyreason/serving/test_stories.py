"""`/v1/stories` and `/v1/stories/read`, with the session's real engine behind the gateway's application."""

import base64
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from storyreason import dataset
from storyreason.format.answer import join
from storyreason.generation.vllm import VllmServer
from storyreason.pictures import data_url
from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import RunningEngine
from storyreason.serving.gateway import application

pytestmark = pytest.mark.server


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The application of a gateway without an engine; an engine that a test lends it is not stopped."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    app, _ = application(ServingConfig(wait_timeout=1, max_body_mb=1))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client
        app.state.engines._engine = None


def message(response: Any) -> str:
    return str(response.json()["error"]["message"])


def test_images_in_a_valid_story_out(client: TestClient, vllm_server: VllmServer, frames: tuple[bytes, ...]) -> None:
    engines = client.app.state.engines  # type: ignore[attr-defined]
    engines._engine = engine = RunningEngine(vllm_server)
    told = client.post("/v1/stories", json={"images": [data_url(frame) for frame in frames[:3]]})

    assert told.status_code == 200, told.text
    assert told.json()["valid"] is True
    assert told.json()["answer"].startswith("<think>\n## Image 1\n")
    assert [image["number"] for image in told.json()["view"]["images"]] == [1, 2, 3]
    assert engine.requests == 0


def test_without_an_engine_it_says_what_to_do(client: TestClient, frames: tuple[bytes, ...]) -> None:
    refused = client.post("/v1/stories", json={"images": [data_url(frames[0])]})
    assert refused.status_code == 503
    assert "deploy one with `storyreason deploy`" in message(refused)


def test_a_text_is_read_without_an_engine(client: TestClient, examples: list[dataset.Example]) -> None:
    example = examples[0]
    right = join(example.chain_of_thought, example.story)
    images = [base64.b64encode(image).decode() for image in example.images]

    whole = client.post("/v1/stories/read", json={"answer": right, "images": images}).json()
    assert whole["valid"] is True
    assert whole["view"]["answers"][0]["entities"]
    wrong = client.post("/v1/stories/read", json={"answer": right.replace("</gdi>", "", 1)}).json()
    assert wrong["valid"] is False
    assert wrong["view"]["images"] == [] and wrong["view"]["answers"][0]["entities"]
    assert {"tag-unclosed"} <= {problem["rule"] for problem in wrong["problems"]}


def bomb() -> bytes:
    """A PNG of a few hundred bytes that claims 2.5 billion pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    head = (50_000).to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def tiff() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "TIFF")
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({}, 400, "images: Field required."),
        ({"images": []}, 400, "images: Tuple should have at least 1 item"),
        ({"images": "x"}, 400, "images: Input should be a valid"),
        ({"images": ["aGFsbG8="], "prompt": "x"}, 400, "prompt: Extra inputs are not permitted."),
        ({"images": ["aGFsbG8="]}, 400, "Image 1 is not a picture in Base64"),
        ({"images": ["file:///etc/passwd"]}, 400, "Image 1 is not a picture in Base64"),
        ({"images": ["http://127.0.0.1/x.png"]}, 400, "Image 1 is not a picture in Base64"),
        ({"images": [base64.b64encode(tiff()).decode()]}, 400, "Image 1 is not a picture in Base64"),
        ({"images": [base64.b64encode(bomb()).decode()]}, 400, "Image 1 "),
        ({"images": ["aGFsbG8="] * 10_000}, 400, "The request has 10000 images: send 22 at most"),
        ({"images": ["a" * 2**20]}, 413, "The request is larger than 1 MiB"),
        ({"images": ["aGFsbG8="], "max_tokens": 0}, 400, "max_tokens: Input should be greater than or equal to 1."),
    ],
)
def test_an_invalid_request_is_rejected_with_a_sentence(
    client: TestClient, body: dict[str, Any], status: int, sentence: str
) -> None:
    refused = client.post("/v1/stories", json=body)
    assert (refused.status_code, message(refused)[: len(sentence)]) == (status, sentence)


def test_a_body_that_is_not_json_is_rejected(client: TestClient) -> None:
    for path in ("/v1/stories", "/v1/stories/read"):
        refused = client.post(path, content=b"\xff{")
        assert refused.status_code == 400
        assert message(refused) == "The body is not JSON."
