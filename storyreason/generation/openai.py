"""Generate a story with any OpenAI-compatible endpoint."""

import contextlib
import functools
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from storyreason import chat
from storyreason.errors import EngineAwayError, EngineError
from storyreason.generation.config import GenerationConfig
from storyreason.pictures import canonical, data_url, each

if TYPE_CHECKING:
    import httpx

RETRYABLE = {408, 425, 429, *range(500, 1000)}
"""Statuses for which the same request may succeed later. Proxies have their own above 504: 520 to 524, 529."""

NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "top_k": 0, "min_p": 0.0}
"""What vLLM takes from the model's `generation_config.json` where a request does not say it. Other engines refuse some of it."""

_OTHER_FORM = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
"""What reading an answer raises that is not in the form of OpenAI's interface, or not JSON."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model wrote. `cut`: it ended at the token limit. Counts are in tokens."""

    text: str
    cut: bool
    prompt_tokens: int
    tokens: int


class Chunk(NamedTuple):
    """A step of a stream: first remove the last `back` characters (always 0 with free decoding), then append `text`.

    `tokens`: generated so far; estimated by the number of chunks until the engine reports it at the end.
    """

    text: str
    back: int = 0
    tokens: int = 0


OnChunk = Callable[[Chunk], object]


class Stop:
    """Cancels the request that another thread is waiting for, and its later ones; the engine stops generating.

    That thread gets EngineAwayError.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._stopped = False

    @property
    def stopped(self) -> bool:
        return self._stopped

    def set(self) -> None:
        with self._lock:
            self._stopped = True
            self._shut()

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """An httpx `trace` extension: learns the connection of a request."""
        if event == "connection.connect_tcp.complete":
            with self._lock:
                self._socket = info["return_value"].get_extra_info("socket")
                if self._stopped:
                    self._shut()

    def _shut(self) -> None:
        # `close` would not wake the thread that reads from it. The engine aborts when the connection closes.
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def tell(
    base_url: str,
    model: str,
    images: Sequence[bytes],
    config: GenerationConfig,
    *,
    api_key: str | None = None,
    on_chunk: OnChunk | None = None,
    stop: Stop | None = None,
) -> Completion:
    """Ask the endpoint at `base_url` (with or without `/v1`) once, with free decoding; streamed if there is `on_chunk`.

    `images` are encoded pictures (PNG, JPEG, ...). Raises EngineAwayError if the same request may succeed later, and
    EngineError if not.
    """
    body = request_body(model, images, config)
    return ask(base_url, body, config.timeout, api_key=api_key, on_chunk=on_chunk, stop=stop)


def ask(
    base_url: str,
    body: dict[str, Any],
    timeout: float,
    *,
    api_key: str | None = None,
    on_chunk: OnChunk | None = None,
    stop: Stop | None = None,
) -> Completion:
    """Request one chat completion; `body` is that of OpenAI's interface. Raises as `tell` does."""
    import httpx

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    url = root(base_url) + "/v1/chat/completions"
    watched = {} if stop is None else {"trace": stop.watch}
    try:
        # By default httpx reads all certificates of the system for each client, which takes 20 ms.
        secure = url.startswith("https:")
        with httpx.Client(timeout=timeout, headers=headers, trust_env=_uses_proxy(url), verify=secure) as client:
            if on_chunk is None:
                response = client.post(url, json=body, extensions=watched)
                _raise_for_status(response)
                return _whole(response.json())
            body = body | {"stream": True, "stream_options": {"include_usage": True}}
            with client.stream("POST", url, json=body, extensions=watched) as response:
                if response.is_error:
                    response.read()
                _raise_for_status(response)
                return _streamed(response, on_chunk, stop)
    except httpx.TransportError as error:
        raise EngineAwayError(f"{url} did not answer: {error or type(error).__name__}.") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, *_OTHER_FORM) as error:
        raise EngineError(
            f"{url} is not an OpenAI-compatible endpoint: its answer has another form ({error!r})."
        ) from error


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An `engine.Engine` at an address. Grammars need vLLM's `structured_outputs`."""

    base_url: str
    model: str
    api_key: str | None = None

    def session(self, images: Sequence[bytes], config: GenerationConfig) -> "EndpointSession":
        return EndpointSession(self, request_body(self.model, images, config), config.timeout)

    def count(self, text: str) -> int:
        return count_tokens(self.base_url, self.model, text, self.api_key)


@dataclass(frozen=True, slots=True)
class EndpointSession:
    """An `engine.Session` with an endpoint. Each `tell` extends `body`, which has the pictures in it."""

    endpoint: Endpoint
    body: dict[str, Any]
    timeout: float

    def tell(
        self,
        *,
        written: str = "",
        grammar: str | None = None,
        max_tokens: int | None = None,
        on_chunk: OnChunk | None = None,
        stop: Stop | None = None,
    ) -> Completion:
        body = dict(self.body)
        if written:
            body["messages"] = [*body["messages"], {"role": "assistant", "content": written}]
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        if grammar is not None:
            body = NEUTRAL | body | {"structured_outputs": {"grammar": grammar}}  # which is vLLM's alone
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        base_url, api_key = self.endpoint.base_url, self.endpoint.api_key
        return ask(base_url, body, self.timeout, api_key=api_key, on_chunk=on_chunk, stop=stop)

    def room(self, stop: Stop | None = None) -> int | None:
        length = max_model_len(self.endpoint.base_url, self.endpoint.model, self.endpoint.api_key)
        if length is None:
            return None
        return length - self.tell(max_tokens=1, stop=stop).prompt_tokens - 1


def root(base_url: str) -> str:
    """The endpoint's address without `/v1`."""
    return base_url.rstrip("/").removesuffix("/v1")


def _uses_proxy(url: str) -> bool:
    """Whether to use the proxy of the environment: not for this machine."""
    return urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1")


def request_body(model: str, images: Sequence[bytes], config: GenerationConfig) -> dict[str, Any]:
    """The request for a story: messages with the pictures in them, and sampling parameters.

    The engine gets canonical pictures, whatever it would make of others. Raises DataError for one that cannot be read.
    """
    pictures = iter(each(functools.partial(canonical, whole=False), images, "story"))
    messages = chat.messages(len(images), config.request, config.images_first)
    for message in messages:
        if isinstance(message["content"], list):
            message["content"] = [_part(part, pictures) for part in message["content"]]
    request = {
        "model": model,
        "messages": messages,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": config.seed,
    }
    return request if config.max_tokens is None else request | {"max_tokens": config.max_tokens}


def _part(part: dict[str, Any], pictures: Any) -> dict[str, Any]:
    """`{"type": "image"}` with the next picture in it; text unchanged."""
    if part["type"] != "image":
        return part
    return {"type": "image_url", "image_url": {"url": data_url(next(pictures))}}


def _whole(answer: dict[str, Any]) -> Completion:
    choice, usage = answer["choices"][0], answer["usage"]
    return Completion(
        "" + (choice["message"]["content"] or ""),  # a TypeError for what is not text
        choice["finish_reason"] == "length",
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


def _streamed(response: "httpx.Response", on_chunk: OnChunk, stop: Stop | None) -> Completion:
    pieces: list[str] = []
    finish, usage = None, {"prompt_tokens": 0, "completion_tokens": 0}
    for line in lines(response):
        if stop is not None and stop.stopped:  # much of the answer may have arrived before the connection was closed
            raise EngineAwayError("The request was cancelled.")
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise EngineError(f"The engine aborted its answer: {_sentence(event)}")
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            finish = choice["finish_reason"] or finish
            if piece := choice["delta"].get("content"):
                pieces.append("" + piece)
                on_chunk(Chunk(piece, tokens=len(pieces)))
    if finish is None:
        raise EngineAwayError("The engine closed the connection in the middle of its answer.")
    on_chunk(Chunk("", tokens=usage["completion_tokens"]))
    return Completion("".join(pieces), finish == "length", usage["prompt_tokens"], usage["completion_tokens"])


def lines(response: "httpx.Response") -> Iterator[str]:
    """The lines of a stream of server-sent events.

    httpx's own `iter_lines` also splits at U+2028, U+2029 and U+0085, which JSON allows within a text.
    """
    rest = b""
    for part in response.iter_bytes():
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode()
    if rest:
        yield rest.decode()


def _raise_for_status(response: "httpx.Response") -> None:
    if response.is_success:
        return
    try:
        sentence = _sentence(response.json())
    except _OTHER_FORM:
        sentence = response.text[:300] or response.reason_phrase
    kind = EngineAwayError if response.status_code in RETRYABLE else EngineError
    raise kind(f"{response.url} rejected the request with {response.status_code}: {sentence}")


def _sentence(answer: dict[str, Any]) -> str:
    error = answer["error"]
    return str(error["message"] if isinstance(error, dict) else error)


def models(base_url: str, api_key: str | None = None) -> list[str]:
    """The names of the models that an endpoint serves."""
    return [str(one.get("id")) for one in _listed(base_url, api_key)]


def max_model_len(base_url: str, model: str, api_key: str | None = None) -> int | None:
    """Longest context in tokens, prompt and answer; None if the endpoint does not say (vLLM does)."""
    listed = {one.get("id"): one for one in _listed(base_url, api_key)}
    named = listed.get(model, {})
    of_base = listed.get(named.get("parent"), {})  # vLLM gives the length of an adapter's base only
    length = named.get("max_model_len") or of_base.get("max_model_len")
    return length if isinstance(length, int) else None


def _listed(base_url: str, api_key: str | None) -> list[dict[str, Any]]:
    listed = call("GET", base_url, "/v1/models", api_key).get("data")
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def prompt(base_url: str, api_key: str | None = None) -> dict[str, Any]:
    """The prompt settings of the served model if the endpoint is a storyreason gateway; empty for others."""
    with contextlib.suppress(EngineError):
        found = call("GET", base_url, "/healthz", api_key).get("prompt")
        return dict(found) if isinstance(found, dict) else {}
    return {}


@functools.lru_cache(maxsize=256)
def count_tokens(base_url: str, model: str, text: str, api_key: str | None = None) -> int:
    """Tokens of a text; its length in bytes, an upper bound, if the endpoint cannot count."""
    counted = call("POST", base_url, "/tokenize", api_key, {"model": model, "prompt": text})
    count = counted.get("count")
    return count if isinstance(count, int) else len(text.encode())


def call(method: str, base_url: str, path: str, api_key: str | None, body: Any = None) -> dict[str, Any]:
    """JSON of a route beyond completions; empty if the endpoint does not have it."""
    import httpx

    url = root(base_url) + path
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx.request(method, url, json=body, headers=headers, timeout=60, trust_env=_uses_proxy(url))
        if response.status_code in (404, 405, 501):
            return {}
        _raise_for_status(response)
    except httpx.TransportError as error:
        raise EngineAwayError(f"{url} did not answer: {error or type(error).__name__}.") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise EngineError(f"{url} cannot be asked, or its answer cannot be read: {error}.") from error
    try:
        found = response.json()
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
