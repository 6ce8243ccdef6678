"""What aiohttp raises for an engine that does not speak HTTP as it should reaches the client as one sentence."""

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.storyreason.serving.asked import CHAT, says
from tests.storyreason.serving.scripted import gateway

pytestmark = pytest.mark.server

OK = b"HTTP/1.1 200 OK\r\n"
EVENTS = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
UNUSABLE = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no status": b"HTTP/1.1 \r\n\r\n",
    "no number": OK + b"Content-Length: many\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    "an endless header": OK + b"X: " + b"a" * 200_000,
    "a control character": OK + b"X: \x01\r\nContent-Length: 2\r\n\r\n{}",
    "a header without a name": OK + b": x\r\nContent-Length: 2\r\n\r\n{}",
    "an unknown status": b"HTTP/1.1 999 What\r\nContent-Length: 2\r\n\r\n{}",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "no chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
    "an odd chunk": EVENTS + b"8\r\ndata: 1\n\r\nZZ\r\n",
    "less than announced": OK + b"Content-Length: 100\r\n\r\n",
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[bytes]]]:
    """A gateway whose engine answers every request with the last of these bytes, then closes."""
    answers = [b""]
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(answers[-1])
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    folder: Path = tmp_path_factory.mktemp("runs")
    with gateway(f"http://127.0.0.1:{listening.getsockname()[1]}", folder) as (url, _):
        yield url, answers
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


def ask(url: str) -> httpx.Response:
    return httpx.post(f"{url}{CHAT}", json={"model": "storyteller", "messages": []}, timeout=60, trust_env=False)


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_answer_that_is_no_http_is_told_as_an_engine_that_does_not_answer(
    odd: tuple[str, list[bytes]], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    url, answers = odd
    answers.append(UNUSABLE[name])

    with caplog.at_level(logging.ERROR):
        told = ask(url)

    assert told.status_code == 502
    assert says(told) == "The engine is running but does not answer: try again later."
    assert "Exception in ASGI application" not in caplog.text
    assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200


def test_a_stream_that_breaks_off_ends_with_an_error_event(odd: tuple[str, list[bytes]]) -> None:
    url, answers = odd
    answers.append(EVENTS + b"8\r\ndata: 1\n\r\n")
    told = ask(url)
    assert told.status_code == 200
    assert told.text.startswith("data: 1\n") and "The engine died in the middle of this answer" in told.text


def test_a_whole_answer_that_breaks_off_is_seen_to_be_incomplete(odd: tuple[str, list[bytes]]) -> None:
    url, answers = odd
    answers.append(OK + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
    with pytest.raises(httpx.RemoteProtocolError):
        ask(url)
