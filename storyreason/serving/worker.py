"""The work on a request that takes processor time, as it runs in a process of its own: `python -m storyreason.serving.worker`.

`workers.Workers` starts these processes and writes to their standard input. A process that needs too much time or memory
ends, and costs one request: nothing here may be needed by another one.
"""

import json
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import IO, Any

from pydantic import ValidationError

from storyreason import page
from storyreason.errors import StoryReasonError
from storyreason.pictures import size as picture_size
from storyreason.serving import budget, limits
from storyreason.serving.config import ServingConfig
from storyreason.serving.errors import body_of
from storyreason.serving.requests import ReadRequest, StoryRequest, parsed

Json = dict[str, Any]
Parts = Sequence[bytes]

LENGTH = struct.Struct(">Q")


def write(to: IO[bytes], header: Json, parts: Parts = ()) -> None:
    """One message: the header as JSON, with the lengths of the parts, then the parts."""
    head = json.dumps(header | {"lengths": [len(part) for part in parts]}).encode()
    for piece in (LENGTH.pack(len(head)), head, *parts):
        to.write(piece)
    to.flush()


def read(source: IO[bytes]) -> tuple[Json, list[bytes]]:
    """The next message. Raises EOFError at the end."""
    (length,) = LENGTH.unpack(_exactly(source, LENGTH.size))
    header: Json = json.loads(_exactly(source, length))
    return header, [_exactly(source, size) for size in header.pop("lengths")]


def _exactly(source: IO[bytes], size: int) -> bytes:
    found = source.read(size)
    if len(found) < size:
        raise EOFError
    return found


def check(given: Json, parts: Parts) -> tuple[Json, Parts]:
    """The body to forward to the engine for a body (the only part); no part if it is the same."""
    (body,) = parts
    forwarded = limits.check(body, ServingConfig.model_construct(**given["settings"]))
    return {}, () if forwarded is body else (forwarded,)


def rename(given: Json, parts: Parts) -> tuple[Json, Parts]:
    """A body (the only part) for an engine that calls the model otherwise."""
    return {}, [limits.renamed(parts[0], given["ours"], given["theirs"])]


def story(given: Json, parts: Parts) -> tuple[Json, Parts]:
    """The fields of a request for a story without its images, the images' sizes in pixels, and the images, encoded."""
    asked = parsed(StoryRequest, parts[0])
    images = limits.decoded(asked.images, ServingConfig.model_construct(**given["settings"]))
    return {"asked": asked.model_dump(exclude={"images"}), "sizes": list(map(picture_size, images))}, images


def reading(given: Json, parts: Parts) -> tuple[Json, Parts]:
    """An answer (the first part) with images, read: a JSON object of `given` and what was found."""
    text, *images = parts
    return {}, [_reading(text.decode(), images, given)]


def read_request(given: Json, parts: Parts) -> tuple[Json, Parts]:
    """The response to `POST /v1/stories/read`."""
    asked = parsed(ReadRequest, parts[0])
    images = limits.decoded(asked.images, ServingConfig.model_construct(**given["settings"]))
    return {}, [_reading(asked.whole, images, {})]


def _reading(answer: str, images: Parts, more: Json) -> bytes:
    view = page.view("story", images, answer)
    (shown,) = view["answers"]
    problems = [{name: value for name, value in one.items() if name != "wanted"} for one in shown["problems"]]
    whole = {"answer": answer, **more, "valid": shown["valid"], "problems": problems, "view": view}
    return json.dumps(whole, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


JOBS: dict[str, Callable[[Json, Parts], tuple[Json, Parts]]] = {
    "check": check,
    "rename": rename,
    "story": story,
    "read": read_request,
    "reading": reading,
}


def main() -> None:
    """Do what comes on standard input, until it ends."""
    # Whoever waits for a small answer comes first: beside 200 hostile requests for 0.36 s at most, and at 5 for 0.59.
    os.nice(10)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the gateway's terminal: it says when to end
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    source, to = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what libraries print
    while True:
        try:
            header, parts = read(source)
        except EOFError:
            return
        size = sum(map(len, parts))
        resource.setrlimit(resource.RLIMIT_DATA, (budget.work_bytes(size), hard))
        signal.setitimer(signal.ITIMER_PROF, budget.work_seconds(size))  # SIGPROF ends the process, also in C code
        found: Parts = ()
        try:
            result, found = JOBS[header["job"]](header["given"], parts)
            answer: Json = {"result": result}
        except (StoryReasonError, ValidationError) as error:
            answer = {"refused": body_of(error)["error"]}
        except MemoryError:
            os._exit(1)  # what is left of its memory is in pieces
        except Exception:
            answer = {"failed": traceback.format_exc()}
        signal.setitimer(signal.ITIMER_PROF, 0)
        try:
            write(to, answer, found)
        except BrokenPipeError:
            return
        del parts, found


if __name__ == "__main__":
    main()
