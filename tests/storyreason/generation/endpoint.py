"""A scripted endpoint, for what a real engine cannot be made to do on demand: to fail now and then."""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, str | Iterable[str]]
"""A status, and a text or the parts of a stream, each sent immediately."""


def answer(text: str, finish: str = "stop") -> Reply:
    """A reply in the form of the OpenAI interface."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return 200, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


def stream(pieces: Iterable[str], finish: str = "stop") -> Reply:
    """A reply as events; an empty piece becomes a comment, which carries nothing."""

    def events() -> Iterator[str]:
        count = 0
        for piece in pieces:
            count += bool(piece)
            choice = {"delta": {"content": piece}, "finish_reason": None}
            yield f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\n\n" if piece else ": nothing\n\n"
        yield f"data: {json.dumps({'choices': [{'delta': {}, 'finish_reason': finish}]})}\n\n"
        yield f"data: {json.dumps({'choices': [], 'usage': {'prompt_tokens': 7, 'completion_tokens': count}})}\n\n"
        yield "data: [DONE]\n\n"

    return 200, events()


def refusal(status: int, sentence: str) -> Reply:
    return status, json.dumps({"error": {"message": sentence}})


@contextmanager
def endpoint(
    reply: Callable[[dict[str, Any]], Reply], listed: Callable[[], list[str]] = lambda: ["storyteller"]
) -> Iterator[str]:
    """The address of a server that answers each request's body with `reply(body)`, and any GET with the models `listed()`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = json.dumps({"data": [{"id": name} for name in listed()]})
            self.send_response(200)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_POST(self) -> None:  # a name that http.server wants
            status, text = reply(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            if isinstance(text, str):
                self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who asked may have gone
                for part in [text] if isinstance(text, str) else text:
                    self.wfile.write(part.encode())
            if not isinstance(text, str):
                text.close()  # type: ignore[attr-defined]

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def next_part(thought: str, story: str, written: str) -> str:
    """What an engine under grammars writes after `written`: the analysis of the next image, or the story."""
    sections = re.split(r"(?<=\n)(?=## Image )", thought)
    return story if "</think>" in written else sections[written.count("## Image ")]
