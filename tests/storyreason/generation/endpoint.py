"""An endpoint that answers by a script, for what a real engine cannot be made to do when asked: to fail now and then."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, str]


def answer(text: str, finish: str = "stop") -> Reply:
    """A reply in the form of the OpenAI interface."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return 200, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


def refusal(status: int, sentence: str) -> Reply:
    return status, json.dumps({"error": {"message": sentence}})


@contextmanager
def endpoint(reply: Callable[[dict[str, Any]], Reply]) -> Iterator[str]:
    """The address of a server that answers each request's body with `reply(body)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # a name that http.server wants
            status, text = reply(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

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
