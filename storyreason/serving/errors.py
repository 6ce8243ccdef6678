"""Refused requests: a status and a sentence. Every error body of the gateway is written here.

There are two forms. Errors that clients of the OpenAI interface may see (those of the middleware and of `/v1/*` on its
way to the engine) have OpenAI's fields. Those of the gateway's own routes, and the `error` event of a story's stream,
have only `message` and `code`.
"""

import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from storyreason.errors import EngineAwayError, GatewayError, StoryReasonError
from storyreason.serving.routing import Send

if TYPE_CHECKING:
    from starlette.responses import JSONResponse


class RefusedError(GatewayError):
    """A request that is refused, with its status, the sentence for the client, and headers (`retry_after="5"`)."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def body(status: int, sentence: str) -> dict[str, Any]:
    """The error body of the gateway's own routes."""
    return {"error": {"message": sentence, "code": status}}


def openai_body(status: int, sentence: str) -> bytes:
    """The error body of the OpenAI interface."""
    return json.dumps({"error": {"message": sentence, "type": "GatewayError", "param": None, "code": status}}).encode()


def openai_event(status: int, sentence: str) -> bytes:
    """`openai_body` as the last event of a stream."""
    return b"data: " + openai_body(status, sentence) + b"\n\n"


def body_of(error: StoryReasonError | ValidationError) -> dict[str, Any]:
    """`body` with the status for this class of error."""
    if isinstance(error, ValidationError):
        return body(400, fault(error))
    if isinstance(error, RefusedError):
        return body(error.status, str(error))
    return body(503 if isinstance(error, (EngineAwayError, GatewayError)) else 422, str(error))


def fault(error: ValidationError) -> str:
    """The first fault of a request's body, as a sentence."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:200] or 'the body'}: {first['msg']}."


def response(status: int, sentence: str) -> "JSONResponse":
    """A response with `body`."""
    from starlette.responses import JSONResponse

    return JSONResponse(body(status, sentence), status)


def response_of(error: StoryReasonError | ValidationError) -> "JSONResponse":
    """A response with `body_of`."""
    from starlette.responses import JSONResponse

    content = body_of(error)
    return JSONResponse(content, content["error"]["code"])


async def refuse(send: Send, error: RefusedError) -> None:
    """Send an error response in the form of the OpenAI interface."""
    content = openai_body(error.status, str(error))
    headers = {"content-type": "application/json", "content-length": str(len(content)), **error.headers}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": content})
