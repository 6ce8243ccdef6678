"""The table of hostile requests: what is sent over a bare connection, and what comes of it.

`test_worst.py` sends each once, `benchmarks/hostile.py` the heavy ones two hundred at a time.
"""

import base64
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from tests.storyreason.odd import chunk, exif, png, saved, segment, text, with_segments
from tests.storyreason.serving.asked import CHAT, READ, SMALL, STORIES, asking, picture

MIB = 2**20
CLOSED = 0
"""Instead of a status: the connection is closed without a response."""


@dataclass(frozen=True)
class Worst:
    """One kind of hostile request. `memory`: MiB that it may take of the gateway and its workers beyond the body itself."""

    name: str
    content: Callable[[], bytes]
    status: int
    says: str = ""
    memory: int = 16
    heavy: bool = False


def post(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Length: {len(body)}",
        *headers,
        "Connection: close",
    ]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "Connection: close", "", ""]).encode(
        "latin-1"
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _wide(path: str, opening: bytes, piece: bytes, closing: bytes, size: int = 20 * MIB) -> Callable[[], bytes]:
    return lambda: post(path, opening + piece * (size // len(piece)) + closing)


def _read(text: str) -> Callable[[], bytes]:
    return lambda: post(READ, _json({"answer": text * (400_000 // len(text))}))


def _smuggled(*headers: str) -> Callable[[], bytes]:
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", *headers, "Connection: close", "", ""]
    return lambda: "\r\n".join(head).encode() + b"0\r\n\r\nGET /admin/status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


SEGMENTS = functools.partial(with_segments, segment(0xE1, b"Exif\0\0" + b"x" * 8) * 10**6)
CHUNKS = functools.partial(png, 2, 8, b"", chunk(b"tEXt", b"a\0b") * 10**6)


def photo() -> bytes:
    return saved(Image.new("RGB", (7300, 5400)), "JPEG", exif=exif(6))


BOMB = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(10 * MIB)).decode
NOT_JSON, VALUES = "The body is not JSON.", "values: send 500,000 at most."

TABLE = [
    # wide, deep and long JSON
    Worst("empty lists to read", _wide(READ, b'{"answer":"x","images":[', b"[],", b"[]]}"), 400, VALUES, 64, True),
    Worst("empty objects to the engine", _wide(CHAT, b'{"a":[', b"{},", b"1]}"), 400, VALUES, 64, True),
    Worst("numbers", _wide(STORIES, b'{"images":[', b"1,", b"1]}"), 400, VALUES, 64, True),
    Worst("half a million values", _wide(READ, b'{"images":[', b"1,", b"1]}", 900_000), 400, "images.0: ", 128, True),
    Worst("a well", lambda: post(CHAT, b'{"a":' + b"[" * 400_000), 400, NOT_JSON, 64, True),
    Worst("a well of objects", lambda: post(STORIES, b'{"a":' * 90_000), 400, NOT_JSON, 64, True),
    Worst("four bytes a character", lambda: post(STORIES, _json({"images": [SMALL], "request": "\U0001f600" + "a" * 20 * MIB})),
        400, "request: String should have at most 4000", 512, True),
    Worst("a text without an end", _wide(CHAT, b'{"a":"', b"\\\",", b"", 10 * MIB), 400, NOT_JSON, 256, True),
    Worst("a number of a million digits", lambda: post(CHAT, b'{"seed":' + b"9" * MIB + b"}"), 400, NOT_JSON, 32),
    Worst("names twice", lambda: post(CHAT, b'{"messages":[],"messages":[{"content":[{"image_url":"http://x/"}]}]}'),
        400,
        "The body has 'messages' twice in one object."),
    Worst("100,000 names twice", _wide(READ, b"{", b'"a":1,', b'"a":1}', 700_000), 400, "'a' twice", 64, True),
    Worst("not a number", lambda: post(CHAT, b'{"messages":[],"temperature":NaN}'),
        400, "The body has NaN, which is not JSON"),
    Worst("without an end", lambda: post(STORIES, b'{"images":["x"],"temperature":-Infinity}'),
        400, "The body has -Infinity"),
    # encodings and types
    Worst("no UTF-8", lambda: post(CHAT, b'{"a":"' + b"\xff" * 20 * MIB + b'"}'), 400, NOT_JSON, 64, True),
    Worst("overlong UTF-8", lambda: post(READ, b'{"answer":"\xc0\xaf"}'), 400, NOT_JSON),
    Worst("UTF-16", lambda: post(CHAT, '{"messages":[]}'.encode("utf-16")), 400, NOT_JSON),
    Worst("half a pair", lambda: post(CHAT, b'{"messages":[{"content":"\\ud800"}]}'), 400, "half of a surrogate pair"),
    Worst("a form", lambda: post(CHAT, b"messages=1", "Content-Type: application/x-www-form-urlencoded"),
        400, NOT_JSON),
    Worst("parts", lambda: post(STORIES, b"--x\r\n\r\n{}\r\n--x--", "Content-Type: multipart/form-data; boundary=x"),
        400, NOT_JSON),
    Worst("compressed", lambda: post(CHAT, b"\x1f\x8b\x08" + bytes(100), "Content-Encoding: gzip"), 400, NOT_JSON),
    Worst("XML", lambda: post(READ, b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'),
        400, NOT_JSON),
    # pictures
    Worst("a data URL of 13 MiB", lambda: post(CHAT, _json(asking("data:image/png;base64," + BOMB()))),
        400, "Image 1 ", 512, True),
    Worst("a picture of 13 MiB", lambda: post(STORIES, _json({"images": [BOMB()]})), 400, "Image 1 ", 512, True),
    Worst("10,000 images", lambda: post(READ, _json({"answer": "", "images": [SMALL] * 10_000})),
        400, "has 10000 images", 64, True),
    Worst("10 pictures of 9 million pixels", lambda: post(READ, _json({"answer": "x", "images": [picture(3000, 3000)] * 10})),
        200, "", 256, True),
    Worst("a JPEG of a million segments", lambda: post(READ, _json({"answer": "x", "images": [text(SEGMENTS())]})),
        400, "a JPEG of more than 10,000 segments", 256, True),
    Worst("a PNG of a million chunks", lambda: post(CHAT, _json(asking("data:image/png;base64," + text(CHUNKS())))),
        400, "a PNG of more than 10,000 chunks", 256, True),
    Worst("a large photo that is turned", lambda: post(CHAT, _json(asking("data:image/jpeg;base64," + text(photo())))),
        200, "", 512, True),
    # texts
    *(Worst(f"read {text!r}", _read(text), 200, '"valid":false', 512, True) for text in ("<\n", "|", "<gdo ", "\U0001f600")),
    # heads
    Worst("a thousand headers", lambda: get("/healthz", *(f"X-{n}: {'a' * 100}" for n in range(1000))), 400),
    Worst("a long target", lambda: get("/" + "a" * 10**5), 400),
    Worst("a head of a megabyte", lambda: get("/healthz", "X: " + "a" * MIB), 400),
    Worst("two lengths", _smuggled("Content-Length: 5", "Content-Length: 6"), 400),
    Worst("length and chunks", _smuggled("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    Worst("a chunked that is none", _smuggled("Transfer-Encoding: xchunked"), 400),
    Worst("a length with a sign", _smuggled("Content-Length: +5"), 400),
    Worst("a negative length", _smuggled("Content-Length: -1"), 400),
    Worst("a blank before the colon", _smuggled("Content-Length : 5"), 400),
    Worst("a folded header", lambda: get("/healthz", "X: a\r\n b"), 400),
    Worst("a bad chunk", lambda: b"POST /v1/stories HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        400),
    Worst("another protocol", lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
    Worst("nothing that is HTTP", lambda: b"hello\r\n\r\n", 400),
    Worst("no host", lambda: b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", 403, "serves this machine only"),
    Worst("another host", lambda: get("/v1/models").replace(b"127.0.0.1", b"evil.example"),
        403, "serves this machine only"),
    # paths and methods
    Worst("out of the folder", lambda: get("/../../etc/passwd"), 404, "Not Found"),
    Worst("out of the gallery", lambda: get("/v1/stories/gallery/..%2f..%2fetc%2fpasswd"),
        404, "The gallery has no such story"),
    Worst("a null byte", lambda: get("/%00"), 404, "Not Found"),
    Worst("a script in the path", lambda: get("/<script>alert(1)</script>"),
        404, '{"error":{"message":"Not Found","code":404}}'),
    Worst("TRACE", lambda: get("/healthz", method="TRACE"), 405),
    Worst("a web socket", lambda: get("/healthz", "Upgrade: websocket", "Sec-WebSocket-Key: x"), 200),
    Worst("another method", lambda: post(CHAT, _json(asking("http://x/")), method="PUT"),
        400, "the gateway fetches nothing"),
    # connections
    Worst("half a body", lambda: post(CHAT, b"{}")[:-1], 408, "did not arrive within 2 s"),
    Worst("no body after a promise", lambda: post(CHAT, b"{}", "Expect: 100-continue")[:-2],
        408, "did not arrive within 2 s"),
    Worst("half a head", lambda: b"GET /healthz HTTP/1.1\r\nX-", CLOSED),
]  # fmt: skip
