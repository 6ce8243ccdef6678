"""Error bodies, byte by byte: clients read them."""

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from storyreason.errors import DataError, EngineAwayError, EngineError, GatewayError, StoryReasonError
from storyreason.serving import errors
from storyreason.serving.errors import RefusedError
from storyreason.serving.live import EventStream, Outbox
from storyreason.serving.requests import StoryRequest


def sent(app: Any) -> list[dict[str, Any]]:
    """What an ASGI application sends to a client that stays connected."""
    messages: list[dict[str, Any]] = []

    async def run() -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(60)
            return {}

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        await app({"type": "http"}, receive, send)

    asyncio.run(run())
    return messages


def test_a_refusal_has_openais_fields() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await errors.refuse(send, RefusedError(429, "Busy – wait.", retry_after="5"))

    response_started, body = sent(app)
    content = b'{"error": {"message": "Busy \\u2013 wait.", "type": "GatewayError", "param": null, "code": 429}}'
    assert response_started["status"] == 429
    assert response_started["headers"] == [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"retry-after", b"5"),
    ]
    assert body["body"] == content
    assert errors.openai_event(429, "Busy – wait.") == b"data: " + content + b"\n\n"


def test_errors_of_the_gateways_own_routes_have_message_and_code() -> None:
    response = errors.response(404, "Nothing – here.")
    assert response.status_code == 404
    assert response.body == '{"error":{"message":"Nothing – here.","code":404}}'.encode()


def test_the_last_event_of_a_story_that_failed_is_an_error() -> None:
    async def tell(_: Outbox) -> tuple[str, dict[str, Any]]:
        return "error", errors.body_of(EngineAwayError("Gone – again."))

    assert [message["body"] for message in sent(EventStream(tell))[1:]] == [
        'event: error\ndata: {"error":{"message":"Gone – again.","code":503}}\n\n'.encode(),
        b"",
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RefusedError(413, "x"), 413),
        (GatewayError("x"), 503),
        (EngineAwayError("x"), 503),
        (EngineError("x"), 422),
        (DataError("x"), 422),
    ],
)
def test_each_kind_of_error_has_its_status(error: StoryReasonError, status: int) -> None:
    assert errors.body_of(error) == {"error": {"message": "x", "code": status}}
    assert errors.response_of(error).status_code == status


def test_an_invalid_body_is_reported_by_its_first_fault() -> None:
    with pytest.raises(ValidationError) as caught:
        StoryRequest.model_validate({"images": ["x"], "seed": -1, "temperature": 3})
    assert errors.body_of(caught.value) == {
        "error": {"message": "temperature: Input should be less than or equal to 2.", "code": 400}
    }
