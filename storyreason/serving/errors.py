"""Requests that are not served: why, in a sentence, with a status. Every error body of the gateway is written here.

Two forms exist. What OpenAI's clients may read (the door's refusals, `/v1/*` of the engine) has OpenAI's fields; the
gateway's own routes, and the `error` event of a story's stream, have `message` and `code` alone.
"""

import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from storyreason.errors import EngineAwayError, GatewayError, StoryReasonError
from storyreason.serving.routing import Send

if TYPE_CHECKING:
    from starlette.responses import JSONResponse


class RefusedError(GatewayError):
    """A request that is not served, with the status and the sentence for it, and headers."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def body(status: int, sentence: str) -> dict[str, Any]:
    """The error of one of the gateway's own routes."""
    return {"error": {"message": sentence, "code": status}}


def openai_body(status: int, sentence: str) -> bytes:
    """The error in the form of the OpenAI interface."""
    return json.dumps({"error": {"message": sentence, "type": "GatewayError", "param": None, "code": status}}).encode()


def openai_event(status: int, sentence: str) -> bytes:
    """The same as the last event of a stream of the OpenAI interface."""
    return b"data: " + openai_body(status, sentence) + b"\n\n"


def body_of(error: StoryReasonError | ValidationError) -> dict[str, Any]:
    """`body` with the status that belongs to the kind of the error."""
    if isinstance(error, ValidationError):
        return body(400, fault(error))
    if isinstance(error, RefusedError):
        return body(error.status, str(error))
    return body(503 if isinstance(error, (EngineAwayError, GatewayError)) else 422, str(error))


def fault(error: ValidationError) -> str:
    """The first thing that is wrong with a request's body, as a sentence."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:200] or 'the body'}: {first['msg']}."


def response(status: int, sentence: str) -> "JSONResponse":
    """`body` as an answer."""
    from starlette.responses import JSONResponse

    return JSONResponse(body(status, sentence), status)


def response_of(error: StoryReasonError | ValidationError) -> "JSONResponse":
    """`body_of` as an answer."""
    from starlette.responses import JSONResponse

    content = body_of(error)
    return JSONResponse(content, content["error"]["code"])


async def refuse(send: Send, error: RefusedError) -> None:
    """Answer with an error in the form of the OpenAI interface."""
    content = openai_body(error.status, str(error))
    headers = {"content-type": "application/json", "content-length": str(len(content)), **error.headers}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": content})
