"""A request that is not served: why, in a sentence, with a status."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from storyreason.errors import GatewayError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class RefusedError(GatewayError):
    """A request that is not served, with the status and the sentence for it, and headers."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


async def refuse(send: Send, error: RefusedError) -> None:
    """Answer with an error in the form of the OpenAI interface."""
    body = error_body(error.status, str(error))
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def error_body(status: int, sentence: str) -> bytes:
    return json.dumps({"error": {"message": sentence, "type": "GatewayError", "param": None, "code": status}}).encode()
