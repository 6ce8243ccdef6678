"""A scripted author: an endpoint that writes right answers about sample films, or fails in each way that endpoints do."""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAMES = ("Mara", "Leo", "Ida", "Tom", "Vera", "Nils", "Rosa", "Emil", "Olga", "Paul", "Ines", "Karl")


@dataclass(frozen=True)
class Response:
    """What is sent: a status, a body, and headers. `cut`: the connection ends in the middle of the body."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


def reply(text: str, finish: str = "stop", usage: bool = True, **message: Any) -> Response:
    """A reply in the form of OpenAI's interface."""
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    counts = {"usage": {"prompt_tokens": 1000, "completion_tokens": 100}} if usage else {}
    return Response(body=json.dumps({"choices": [choice], **counts}))


def error(status: int, sentence: str, **headers: str) -> Response:
    return Response(status, json.dumps({"error": {"message": sentence}}), {**headers})


def texts(body: dict[str, Any]) -> list[str]:
    """The texts of a request's messages, in order."""
    found = []
    for message in body["messages"]:
        content = message["content"]
        found += [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
    return found


def asks_for_a_story(body: dict[str, Any]) -> bool:
    return any(text.startswith("Now write the story") for text in texts(body))


def right(body: dict[str, Any]) -> str:
    """What a good author writes: the skeleton filled in, or a story that mentions whoever is there. Depends on the body only."""
    chance = int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(), 16)
    if asks_for_a_story(body):
        return _story(next(text for text in texts(body) if text.startswith("Now write the story")))
    skeleton = "## Image 1" + next(text for text in texts(body) if "\n## Image 1" in text).partition("## Image 1")[2]
    return filled(skeleton.strip(), chance)


def filled(skeleton: str, chance: int) -> str:
    """A skeleton with every open cell filled."""
    count = len(re.findall("^## Image ", skeleton, re.M))
    taken = set(re.findall(r"^\| char\d+ \| (\w+) \|", skeleton, re.M))
    free = [name for name in NAMES[chance % 5 :] + NAMES[: chance % 5] if name not in taken]
    given: dict[str, str] = {}
    lines = []
    for line in skeleton.split("\n"):
        if match := re.match(r"\| (char\d+) \| …", line):
            name = given.setdefault(match[1], free[len(given) % len(free)])
            line = line.replace("| …", f"| {name}", 1)
        if re.match(r"\| (Introduction|Development|Conflict|Turning Point|Conclusion) ", line):
            line = re.sub(r"… \|$", f"{1 + chance % count} |", line)
        lines.append(line.replace("…", f"A detail {chance % 97}"))
    return "\n".join(lines)


def _story(request: str) -> str:
    passages = []
    for image, ids in re.findall(r"image(\d+): ([a-z0-9, ]+)[;.]", request.rpartition("These are: ")[2]):
        told = ["The light changed."]
        for entity in [] if ids == "none" else ids.split(", "):
            tag, words = ("gdl", "the place") if entity[:2] in ("lm", "bg") else ("gdo", "the one")
            told.append(f"Then <{tag} {entity}>{words}</{tag}> was there.")
        passages.append(f"<gdi image{image}>\n{' '.join(told)}\n</gdi>")
    return "\n\n".join(passages)


Script = Callable[[dict[str, Any], int], Response | str]
"""What is answered to a request's body; the second argument counts the requests from 0."""


@dataclass
class Endpoint:
    """Where it is, and the requests it had."""

    url: str
    bodies: list[dict[str, Any]]


@contextmanager
def endpoint(
    script: Script = lambda body, _: right(body), models: Sequence[str] | None = None, key: str | None = None
) -> Iterator[Endpoint]:
    """A server that answers by a script. It lists `models`, if there are any, to those who have the key."""
    bodies: list[dict[str, Any]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # a name that http.server wants
            if key is not None and self.headers["authorization"] != f"Bearer {key}":
                self._answer(error(401, "wrong key"))
            else:
                listed = [{"id": name} for name in models or ()]
                self._answer(Response(404 if models is None else 200, json.dumps({"data": listed})))

        def do_POST(self) -> None:  # a name that http.server wants
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(bodies)
                bodies.append(body)
            answer = script(body, number)
            self._answer(reply(answer) if isinstance(answer, str) else answer)

        def _answer(self, found: Response) -> None:
            sent = found.body.encode()
            self.send_response(found.status)
            self.send_header("content-length", str(len(sent)))
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent[: len(sent) // 2] if found.cut else sent)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Endpoint(f"http://127.0.0.1:{server.server_port}", bodies)
        finally:
            server.shutdown()
            thread.join()


def in_turn(first: Sequence[Response | str], then: Script = lambda body, _: right(body)) -> Script:
    """A script whose first answers are given, one request after the other."""
    return lambda body, number: first[number] if number < len(first) else then(body, number)
