"""What a request may take: memory, processor time, and the patience for clients that leave or do not read."""

import asyncio
import gc
import json
import logging
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from storyreason.serving import budget, worker
from storyreason.serving.errors import RefusedError
from storyreason.serving.live import Outbox
from storyreason.serving.routing import ClientGoneError, unless_gone
from storyreason.serving.workers import COMMAND, Workers
from tests.storyreason.generation.endpoint import Reply, endpoint, stream
from tests.storyreason.serving.asked import FRIEND, KEY, READ, SMALL, STORIES
from tests.storyreason.serving.scripted import gateway
from tests.storyreason.test_guard import wait_for


def test_requests_share_the_memory_and_give_it_back() -> None:
    memory = budget.Memory(100)
    with memory.share() as one, memory.share() as other:
        one.take(60)
        other.take(40)
        with pytest.raises(
            RefusedError, match=r"holds as much of other requests as it may \(serving.max_memory_mb"
        ) as full:
            one.take(1)
        assert (full.value.status, full.value.headers) == (429, {"retry-after": "5"})
        other.release()
        one.take(40)
    assert memory.held == 0


TIGHT = """
from storyreason.serving import budget, worker
budget.work_seconds = lambda size: 0.2
worker.JOBS |= {
    "spin": lambda given, parts: [0 for _ in iter(int, 1)],
    "backtrack": lambda given, parts: __import__("re").match("(a*)*b", "a" * 40),
    "hoard": lambda given, parts: ({"length": len(bytearray(2**31))}, ()),
    "fail": lambda given, parts: 1 / 0,
    "echo": lambda given, parts: (given, parts),
}
worker.main()
"""


@pytest.fixture(scope="module")
def tight() -> Iterator[Workers]:
    """One worker that has a fifth of a second for a piece of work."""
    workers = Workers(1, [sys.executable, "-c", TIGHT])
    yield workers
    workers.close()


@pytest.mark.parametrize(
    ("job", "status", "sentence"),
    [
        ("spin", 413, "of processor time to read: send less."),
        ("backtrack", 413, "of processor time to read: send less."),  # in C, which no exception interrupts
        ("hoard", 413, "MiB of memory to read: send less."),
        ("fail", 500, "its log says why"),
    ],
)
def test_work_beyond_its_budget_costs_its_own_request_only(
    tight: Workers, job: str, status: int, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RefusedError, match=sentence) as refused:
        asyncio.run(tight.do(job, {}))
    assert refused.value.status == status
    assert "Traceback" not in str(refused.value)
    assert ("ZeroDivisionError" in caplog.text) is (job == "fail")

    assert asyncio.run(tight.do("echo", {"a": 1}, b"x" * 10**6, b"")) == ({"a": 1}, [b"x" * 10**6, b""])


def test_nothing_of_an_answer_is_kept_when_it_has_been_read() -> None:
    """A cache by the text of an ID or a name grows with every request, whatever the length of its keys."""

    def read(number: int) -> None:
        word = f"{number}" + "a" * 50_000
        row = f"| {word} | B{word} | c | d | e | f | 1,2,30,40 |"
        text = f"<think>\n## Image 1\n### Characters\n{row}\n</think>\n<gdi image1>\n<gdo {word}>B{word}</gdo> C{word}.\n</gdi>"
        worker.JOBS["reading"]({}, [text.encode()])

    read(0)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(1, 11):
            read(number)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000, "not two words of the ten answers"


def test_a_refusal_keeps_its_status_and_sentence() -> None:
    workers = Workers(1, COMMAND)
    try:
        with pytest.raises(RefusedError, match="The body is not JSON") as refused:
            asyncio.run(workers.do("check", {"settings": {}}, b"{"))
        assert refused.value.status == 400
    finally:
        workers.close()


def test_work_for_a_client_that_left_is_cancelled_and_awaited() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def check() -> None:
        with pytest.raises(ClientGoneError):
            await unless_gone(work(), receive)
        assert ended == ["cleaned up"]

    asyncio.run(check())


def test_events_wait_for_a_client_up_to_a_limit() -> None:
    """The thread that reads from the engine waits with them, until the client reads or leaves."""
    sent: list[bytes] = []

    async def check(reads: bool) -> None:
        outbox, may_send, put = Outbox(), asyncio.Event(), 0

        async def send(message: dict[str, Any]) -> None:
            await may_send.wait()
            sent.append(message["body"])

        def tell() -> None:
            nonlocal put
            for _ in range(100):
                outbox.wait()
                outbox.put("text", {"text": "a" * 10_000})
                put += 1

        telling = asyncio.create_task(asyncio.to_thread(tell))
        sending = asyncio.create_task(outbox.send_all(send))  # type: ignore[arg-type]
        while put * 10_000 < budget.MAX_UNSENT:
            await asyncio.sleep(0.01)
        for _ in range(20):
            await asyncio.sleep(0)
        assert put * 10_000 < budget.MAX_UNSENT + 30_000
        if reads:
            may_send.set()
        else:
            outbox.close()
        await telling
        assert put == 100
        outbox.end()
        may_send.set()
        await sending

    asyncio.run(check(reads=True))
    whole = b"".join(sent)
    assert (
        whole.count(b"event: text\n") == 100 and len(whole) == 100 * len(b'event: text\ndata: {"text":""}\n\n') + 10**6
    )
    assert sent[-1] == b"" and len(sent) < 80  # what waits is sent together
    asyncio.run(check(reads=False))


def test_a_view_is_made_when_the_last_one_was_sent() -> None:
    async def check() -> None:
        outbox = Outbox()

        async def send(message: dict[str, Any]) -> None:
            pass

        assert outbox.keeps_up()
        outbox.put("text", {})
        assert outbox.keeps_up()
        outbox.put("view", {})
        assert not outbox.keeps_up()
        outbox.end()
        await asyncio.sleep(0)
        await outbox.send_all(send)  # type: ignore[arg-type]
        assert outbox.keeps_up()

    asyncio.run(check())


def counted(url: str, path: str) -> dict[str, float]:
    """How many requests for a path had which status."""
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    start = f'storyreason_requests_total{{route="{path}",status="'
    return {line[len(start) : len(start) + 3]: float(line.rsplit(" ")[-1]) for line in lines if line.startswith(start)}


@pytest.mark.server
@pytest.mark.parametrize("path", [READ, STORIES, "/v1/completions"])
def test_a_client_that_leaves_in_mid_body_is_one_line_and_no_error(
    url: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place = urlsplit(url)
    before = counted(url, path)
    for _ in range(5):
        with socket.create_connection((place.hostname, place.port or 80)) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100"
            connection.sendall(head.encode() + b"\r\n\r\n{")
    wait_for(lambda: counted(url, path).get("499", 0) == before.get("499", 0) + 5, 20)
    assert counted(url, path).get("500", 0) == before.get("500", 0)
    logged = [one for one in caplog.records if one.name.startswith(("storyreason", "uvicorn.error"))]
    said = [one.getMessage() for one in logged]
    assert said == ["a client disconnected"] * 5


def endless(begun: threading.Event, ended: threading.Event) -> Iterator[str]:
    begun.set()
    try:
        while True:
            yield "word " * 20_000
    finally:
        ended.set()


@pytest.mark.server
@pytest.mark.parametrize("path", [STORIES, "/v1/chat/completions"])
def test_a_client_that_does_not_read_loses_its_connection(path: str, tmp_path: Path) -> None:
    """However fast the engine writes, a little waits for the client, and its place becomes free."""
    begun, ended = threading.Event(), threading.Event()

    def reply(body: dict[str, Any]) -> Reply:
        return stream(endless(begun, ended))

    body = json.dumps({"images": [SMALL], "decoding": "free"} if path == STORIES else {"messages": [], "stream": True})
    with endpoint(reply) as engine, gateway(engine, tmp_path, unread_timeout=1) as (url, engines):
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port or 80)) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nAccept: text/event-stream\r\nContent-Length: {len(body)}"
            connection.sendall(f"{head}\r\n\r\n{body}".encode())
            assert begun.wait(30)
            wait_for(ended.is_set, 60)
            wait_for(lambda: engines.requests == 0, 30)


@pytest.mark.server
def test_a_response_in_slices_is_whole(url: str) -> None:
    text = "word " * 90_000
    answered = httpx.post(url + READ, json={"answer": text}, headers=FRIEND, timeout=60, trust_env=False)
    assert len(answered.content) > 2 * budget.SLICE
    assert answered.json()["answer"] == text


@pytest.mark.server
def test_a_slow_reader_gets_everything(tmp_path: Path) -> None:
    """What may wait is bounded, not what may be sent."""
    text = ["word " * 20] * 5000
    with endpoint(lambda _: stream(text)) as engine, gateway(engine, tmp_path, max_model_len=32_768) as (url, _):
        body = {"images": [SMALL], "decoding": "free"}
        accept = {"accept": "text/event-stream"}
        heard = b""
        with httpx.stream("POST", url + STORIES, json=body, headers=accept, timeout=60, trust_env=False) as response:
            for part in response.iter_raw():
                heard += part
                time.sleep(0.001)
    assert heard.count(b"event: text\n") == 5000
    assert heard.rstrip().rpartition(b"event: ")[2].startswith(b"done")
