"""Hostile connections: slow, endless, too many. None is kept for long, and the gateway keeps serving."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from storyreason.pictures import data_url
from tests.storyreason.generation.endpoint import Reply, answer, endpoint
from tests.storyreason.serving.asked import CHAT, DEPLOY, KEY, READ, STORIES, asking, post, says
from tests.storyreason.serving.scripted import gateway
from tests.storyreason.test_guard import wait_for

pytestmark = pytest.mark.server


def raw(url: str, head: str, *bodies: bytes, pause: float = 0.0) -> bytes:
    """Everything received over a bare connection until it is closed."""
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
def test_a_slow_body_times_out(url: str, path: str) -> None:
    said = raw(url, f"POST {path} HTTP/1.1\r\nContent-Length: 1000", b"{", b" ", b" ", pause=0.1)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"The request's body did not arrive within 2 s (serving.body_timeout)." in said


def test_a_chunked_body_is_measured_while_it_arrives(url: str) -> None:
    chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
    said = raw(url, f"POST {STORIES} HTTP/1.1\r\nTransfer-Encoding: chunked", *[chunk] * 17)
    assert said.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", [STORIES, "/nothing/there"])
def test_a_client_that_goes_on_sending_after_the_response_loses_its_connection(url: str, path: str) -> None:
    chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
    said = raw(url, f"POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked", *[chunk] * 40, pause=0.03)
    assert said.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 404 "))
    assert b"connection: close" in said


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (f"POST /nothing/there HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 99", 404),
        (f"POST {CHAT} HTTP/1.1\r\nContent-Length: 99", 401),
        (f"POST {CHAT} HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 99999999999", 413),
        (f"POST {CHAT} HTTP/1.1\r\nA: {'a' * 70_000}\r\nContent-Length: 99", 400),
    ],
)
def test_a_client_that_is_answered_early_may_finish_sending_and_reads_its_answer(
    url: str, head: str, status: int
) -> None:
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port or 80), timeout=20) as connection:
        connection.sendall(f"{head}\r\nHost: {place.netloc}\r\n\r\n".encode())
        said = connection.recv(65536)  # the gateway has answered, and closes
        assert said.startswith(f"HTTP/1.1 {status} ".encode())
        for _ in range(3):  # the first byte to a closed connection would reset it, and the next would fail
            connection.sendall(b"x")
            time.sleep(0.05)
        while part := connection.recv(65536):
            said += part
    assert b"connection: close" in said


def test_a_huge_content_length_is_rejected_at_once(url: str) -> None:
    assert raw(url, f"POST {CHAT} HTTP/1.1\r\nContent-Length: 99999999999").startswith(b"HTTP/1.1 413 ")


def test_a_deployment_is_authorized_before_its_size_is_checked(url: str) -> None:
    said = raw(url, f"POST {DEPLOY} HTTP/1.1\r\nContent-Length: 99999999999\r\nConnection: close")
    assert said.startswith(b"HTTP/1.1 401 ")


def test_requests_beyond_the_concurrency_limit_are_rejected(tmp_path: Path, frames: tuple[bytes, ...]) -> None:
    """The third is told to retry, and is served when it does."""
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
            assert "The gateway is answering 2 requests, which is the limit (serving.max_requests)" in says(refused)
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        waiting.append(1)
        assert [one.result().status_code for one in first] == [200, 200]
        assert post(url, CHAT, body, {}).status_code == 200


@pytest.fixture(scope="module")
def impatient(engine: tuple[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway that waits a second for the head of a request."""
    with gateway(engine[0], tmp_path_factory.mktemp("runs"), head_timeout=1) as (url, _):
        yield url


def test_connections_beyond_the_limit_are_closed_and_the_others_answered(
    engine: tuple[str, Any], tmp_path: Path
) -> None:
    with gateway(engine[0], tmp_path, most_connections=3) as (url, _), contextlib.ExitStack() as stack:
        place = urlsplit(url)
        address = (place.hostname, place.port or 80)
        idle = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(3)]
        assert is_refused(url)
        for one in idle:
            one.sendall(HEALTH)
            assert one.recv(65536).startswith(b"HTTP/1.1 200")
        idle[0].close()
        wait_for(lambda: not is_refused(url), 20)


def test_a_gateway_opens_as_many_descriptors_as_the_system_lets_it_and_keeps_half_of_them() -> None:
    code = (
        "import resource; from storyreason.serving import budget\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 500))\n"
        "print(budget.max_connections(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == [
        "250", "500", "500"
    ]  # fmt: skip


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def until_closed(url: str, *parts: bytes) -> bytes:
    """Everything received until the connection is closed, which must happen within seconds."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port or 80), timeout=20) as connection:
        said = b""
        for part in parts:
            connection.sendall(part)
        while came := connection.recv(65536):
            said += came
    return said


def is_refused(url: str) -> bool:
    """Whether a connection is closed without an answer."""
    with contextlib.suppress(ConnectionError):  # a reset, or nothing at all: by what of the request had arrived
        return until_closed(url, HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) == b""
    return True


@pytest.mark.parametrize("parts", [[], [b"\r\n"], [b"GET /heal"], [HEALTH[:-2]], [HEALTH[:-2], b"X-A: b\r\n"]])
def test_an_incomplete_head_times_out(impatient: str, parts: list[bytes]) -> None:
    assert until_closed(impatient, *parts) == b""


def test_a_byte_after_an_answer_does_not_keep_the_connection(impatient: str) -> None:
    place = urlsplit(impatient)
    with socket.create_connection((place.hostname, place.port or 80), timeout=20) as connection:
        connection.sendall(HEALTH)
        assert connection.recv(65536).startswith(b"HTTP/1.1 ")
        connection.sendall(b"G")
        while connection.recv(65536):
            pass


def test_pipelined_requests_are_all_answered(impatient: str) -> None:
    assert until_closed(impatient, HEALTH * 5 + HEALTH[:-2]).count(b"HTTP/1.1 ") == 5


def test_an_answer_may_take_longer_than_a_head(tmp_path: Path, frames: tuple[bytes, ...]) -> None:
    """A complete request is not timed out, nor is the next one on its connection."""
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
def test_an_oversized_head_is_rejected(url: str, head: bytes) -> None:
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port or 80), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):  # closed while there was more to come
            connection.sendall(head)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_any_request_with_a_body_counts_towards_the_limit(tmp_path: Path) -> None:
    with gateway("http://127.0.0.1:9", tmp_path, max_requests=1, body_timeout=5) as (url, _):
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port or 80), timeout=60) as connection:
            connection.sendall(f"PUT {CHAT} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 9\r\n\r\n".encode())
            wait_for(lambda: post(url, READ, {"answer": ""}, {}).status_code == 429, 4)
