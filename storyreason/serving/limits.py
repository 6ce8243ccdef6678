"""Limits of a request's body: its JSON, its pictures, which are never fetched, and how many answers it asks for."""

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from storyreason.pictures import BROWSER_FORMATS, PictureError, canonical, data_url, header
from storyreason.serving.budget import MAX_VALUES
from storyreason.serving.config import ServingConfig
from storyreason.serving.errors import RefusedError

FORMATS = tuple(BROWSER_FORMATS)
MAX_TOTAL_PIXELS = 200_000_000
MAX_CHOICES = 8
"""Answers, prompts or conversations in one request."""

_LINKS = {"url", "image_url", "video_url", "audio_url", "file_url"}
"""Fields in which the engine expects an address to fetch, in messages and other input."""
_NEVER_FETCHED = {
    "metadata", "tools", "functions", "response_format", "structured_outputs", "documents", "chat_template_kwargs",
}  # fmt: skip
"""Fields of a body whose content is not input: an address there is a text like any other."""
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A text of JSON; one that does not end goes to the end of the body, so that this is linear."""


def decoded(images: Sequence[str], config: ServingConfig) -> list[bytes]:
    """The canonical pictures (`pictures.canonical`) in data URLs or plain Base64, each decoded once.

    Raises RefusedError with the image's number, from 1.
    """
    return [picture for _, picture in _pictures(images, config)]


def _pictures(images: Sequence[str], config: ServingConfig) -> list[tuple[bytes, bytes]]:
    """Each picture as it came, and canonical: the same object if it is ordinary."""
    most = config.images_per_prompt
    if len(images) > most:
        raise RefusedError(
            400, f"The request has {len(images)} images: send {most} at most (serving.images_per_prompt)."
        )
    came, together = [], 0
    for number, text in enumerate(images, 1):
        with _numbered(number):
            came.append(base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True))
            _, width, height = header(came[-1], FORMATS)
        together += width * height
    if together > MAX_TOTAL_PIXELS:
        raise RefusedError(400, f"The images have {together:,} pixels in total: send {MAX_TOTAL_PIXELS:,} at most.")
    found = []
    for number, encoded in enumerate(came, 1):
        with _numbered(number):
            found.append((encoded, canonical(encoded, FORMATS)))
    return found


@contextmanager
def _numbered(number: int) -> Iterator[None]:
    """Raises RefusedError for a picture that cannot be read."""
    try:
        yield
    except (ValueError, PictureError) as error:
        raise RefusedError(
            400,
            f"Image {number} is not a picture in Base64 that can be used ({error}): send {', '.join(FORMATS)}, as a data "
            "URL or plain Base64.",
        ) from None


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises RefusedError, also for what parsers read differently.

    The engine parses the same bytes again. Where it could find another object (a name that appears twice, NaN, another
    encoding than UTF-8), what was checked here would not be what it acts on.
    """
    if (count := _values(body)) > MAX_VALUES:
        raise RefusedError(400, f"The body has about {count:,} values: send {MAX_VALUES:,} at most.")
    try:
        asked = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_no_constant)
        if re.search(rb"\\u[dD][89a-fA-F]", body):
            json.dumps(asked, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RefusedError(400, "The body has a text that is not Unicode: half of a surrogate pair.") from None
    except (ValueError, RecursionError):
        raise RefusedError(400, "The body is not JSON.") from None
    if not isinstance(asked, dict):
        raise RefusedError(400, "The body is not a JSON object.")
    return asked


def _values(body: bytes) -> int:
    """Values and names in a body, at most. Texts are left out if they could matter: a story has commas, too."""
    count = sum(map(body.count, (b",", b"[", b"{", b":")))
    return count if count <= MAX_VALUES else sum(map(_TEXT.sub(b"", body).count, (b",", b"[", b"{", b":")))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise RefusedError(400, f"The body has {twice[:80]!r} twice in one object.")
    return found


def _no_constant(name: str) -> None:
    raise RefusedError(400, f"The body has {name}, which is not JSON: send a number.")


def check(body: bytes, config: ServingConfig) -> bytes:
    """The body to forward to the engine for a request to the OpenAI interface. Raises RefusedError if there is none.

    The engine would fetch any address in it; here every address must be a data URL with an acceptable picture. If a picture
    is not ordinary, the engine gets the canonical one instead; otherwise the body is returned as it is.
    """
    asked = json_object(body)
    for name in ("n", "best_of"):
        count = asked.get(name)  # the engine accepts "16384" as a number, too
        if count is not None and not (isinstance(count, int) and count <= MAX_CHOICES):
            said = count if isinstance(count, (int, float)) else "not a number"
            raise RefusedError(400, f"{name} is {said}: request {MAX_CHOICES} answers at most.")
    if isinstance(asked.get("prompt"), list) and len(asked["prompt"]) > MAX_CHOICES and not _tokens(asked["prompt"]):
        raise RefusedError(400, f"The request has {len(asked['prompt'])} prompts: send {MAX_CHOICES} at most.")
    messages = asked.get("messages")
    if isinstance(messages, list) and len(messages) > MAX_CHOICES and any(isinstance(one, list) for one in messages):
        raise RefusedError(400, f"The request has {len(messages)} conversations: send {MAX_CHOICES} at most.")
    places = list(_links(asked))
    for holder, name in places:
        if name != "data" and not holder[name].startswith("data:"):
            raise RefusedError(
                400,
                f"{name} {holder[name][:80]!r} is an address, and the gateway fetches nothing: send the picture as a data "
                "URL.",
            )
    changed = False
    for (holder, name), (came, picture) in zip(
        places, _pictures([holder[name] for holder, name in places], config), strict=True
    ):
        if picture is not came:
            changed = True
            head, _, content = data_url(picture).partition(",")
            if name == "data":
                holder |= {"data": content, "media_type": head.removeprefix("data:").partition(";")[0]}
            else:
                holder[name] = f"{head},{content}"
    return json.dumps(asked).encode() if changed else body


def renamed(body: bytes, ours: str, theirs: str) -> bytes:
    """The body for an engine that calls the model `theirs`: that in place of our name for it, or of none.

    Raises RefusedError for any other name: an engine may hold models that are not served.
    """
    asked = json_object(body)
    if (model := asked.get("model")) not in (None, ours, theirs):
        raise RefusedError(404, f"There is no model {str(model)[:80]!r}: use {ours!r}.")
    return json.dumps(asked | {"model": theirs}).encode()


def _tokens(prompt: list[Any]) -> bool:
    return all(isinstance(one, int) for one in prompt)


def _links(asked: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Where pictures and addresses are: each object, and the name of its text, at any depth.

    That is a field of `_LINKS`, or the `data` of an image in Anthropic's interface. Not recursive, since a request may be
    nested deeply.
    """
    waiting: list[Any] = [{name: value for name, value in asked.items() if name not in _NEVER_FETCHED}]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            source = one.get("source") if one.get("type") == "image" else None
            if isinstance(source, dict) and source.get("type") != "url" and isinstance(source.get("data"), str):
                yield source, "data"
            for name, value in reversed(one.items()):
                if name in _LINKS and isinstance(value, str):
                    yield one, name
                else:
                    waiting.append(value)
        elif isinstance(one, list):
            waiting.extend(reversed(one))
