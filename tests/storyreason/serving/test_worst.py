"""Each kind of hostile request has its answer, and takes a bounded part of the gateway's memory."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks.hostile import peak, start_peak
from benchmarks.serving import gateway_before
from tests.storyreason.generation.endpoint import answer, endpoint
from tests.storyreason.serving.worst import CLOSED, MIB, TABLE, Worst

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[str, Any]]:
    """A gateway in a process of its own, so that its memory can be measured."""
    with (
        endpoint(lambda _: answer("once")) as engine,
        gateway_before(engine, "storyteller", body_timeout=2, head_timeout=3) as found,
    ):
        yield found


def received(url: str, content: bytes) -> bytes:
    place = urlsplit(url)
    said = b""
    with socket.create_connection((place.hostname, place.port or 80), timeout=120) as connection:
        with contextlib.suppress(ConnectionError):  # refused while there was more to send
            connection.sendall(content)
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(MIB):
                said += part
    return said


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_a_hostile_request_gets_its_answer_and_takes_little_memory(gateway: tuple[str, Any], one: Worst) -> None:
    url, process = gateway
    content = one.content()
    before = start_peak(process)
    said = received(url, content).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    took = peak(process) - before

    status = int(said.split(b" ", 2)[1]) if said else CLOSED
    assert status == one.status, said[:500]
    assert one.says in said.decode(errors="replace"), said[:500]
    assert took <= one.memory * MIB + 6 * len(content), f"{took // MIB} MiB"
    assert received(url, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    )
