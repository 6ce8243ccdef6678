"""A failed step is tried again when the cause is outside, never when it is the input."""

from typing import Any

import httpx
import pytest

from storyreason.errors import DataError, EngineAwayError, GatewayError, ModelError
from tasks.steps import from_outside


class Failed:
    """A task's state, of which only the result is asked."""

    def __init__(self, error: Exception, cause: Exception | None = None) -> None:
        error.__cause__ = cause
        self._error = error

    def result(self) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("state", "again"),
    [
        (Failed(DataError("the remote broke off"), OSError("reset by peer")), True),
        (Failed(GatewayError("the gateway broke off"), httpx.ReadError("closed")), True),
        (Failed(EngineAwayError("vLLM does not answer")), True),
        (Failed(ConnectionError("no route")), True),
        (Failed(DataError("half of the stories are bad")), False),
        (Failed(ModelError("no config.json"), ValueError("not JSON")), False),
    ],
    ids=lambda value: str(getattr(value, "_error", value)),
)
def test_what_is_tried_again(state: Failed, again: bool) -> None:
    assert from_outside(None, None, state) is again
