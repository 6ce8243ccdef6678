"""The pictures of a request: none is fetched, and none is decoded before its format and its size are known."""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

from storyreason.pictures import BROWSER_FORMATS, PictureError, header
from storyreason.serving.config import ServingConfig
from storyreason.serving.errors import RefusedError

FORMATS = tuple(BROWSER_FORMATS)
MAX_PIXELS = 40_000_000
"""Of one image: no film frame has more, and a bomb of a few kilobytes has thousands of millions."""
MAX_TOTAL_PIXELS = 200_000_000
MAX_CHOICES = 8
"""Answers to one request, and prompts or conversations in one."""

_LINKS = {"url", "image_url", "video_url", "audio_url", "file_url"}
"""Under these an engine looks for an address, to fetch from it what a request is about."""


def decoded(images: Sequence[str], config: ServingConfig) -> list[bytes]:
    """The encoded pictures of data URLs, or of Base64 alone. Raises RefusedError that names the image, from 1."""
    most = config.images_per_prompt
    if len(images) > most:
        raise RefusedError(400, f"{len(images)} images are too many: send {most} at most (serving.images_per_prompt).")
    pictures, together = [], 0
    for number, text in enumerate(images, 1):
        picture, pixels = _decoded(number, text)
        pictures.append(picture)
        together += pixels
    if together > MAX_TOTAL_PIXELS:
        raise RefusedError(400, f"The images have {together:,} pixels together: send {MAX_TOTAL_PIXELS:,} at most.")
    return pictures


def _decoded(number: int, text: str) -> tuple[bytes, int]:
    try:
        encoded = base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
        _, width, height = header(encoded, FORMATS)
    except (ValueError, PictureError):
        raise RefusedError(
            400, f"Image {number} is no picture in Base64: send {', '.join(FORMATS)}, as a data URL or plain."
        ) from None
    if width * height > MAX_PIXELS:
        raise RefusedError(400, f"Image {number} has {width} x {height} pixels: send {MAX_PIXELS:,} at most.")
    return encoded, width * height


def check(body: bytes, config: ServingConfig) -> None:
    """Raise RefusedError unless the body of a request to the OpenAI interface can go to the engine.

    The engine would fetch what an address in it points at; here it must be a data URL, with a picture that may pass.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The body is no JSON.") from None
    if not isinstance(asked, dict):
        raise RefusedError(400, "The body is no JSON object.")
    for name in ("n", "best_of"):
        count = asked.get(name)  # the engine takes "16384" for a number, too
        if count is not None and not (isinstance(count, int) and count <= MAX_CHOICES):
            said = count if isinstance(count, (int, float)) else "no number"
            raise RefusedError(400, f"{name} is {said}: ask for {MAX_CHOICES} answers at most.")
    if isinstance(asked.get("prompt"), list) and len(asked["prompt"]) > MAX_CHOICES and not _tokens(asked["prompt"]):
        raise RefusedError(400, f"There are {len(asked['prompt'])} prompts: send {MAX_CHOICES} at most.")
    messages = asked.get("messages")
    if isinstance(messages, list) and len(messages) > MAX_CHOICES and any(isinstance(one, list) for one in messages):
        raise RefusedError(400, f"There are {len(messages)} conversations: send {MAX_CHOICES} at most.")
    images = []
    for kind, link in _links(asked):
        if not link.startswith("data:"):
            raise RefusedError(
                400,
                f"{kind} {link[:80]!r} is an address, and the gateway fetches nothing: send the picture as a data URL.",
            )
        images.append(link)
    decoded(images, config)


def _tokens(prompt: list[Any]) -> bool:
    return all(isinstance(one, int) for one in prompt)


def _links(asked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each text under a name of `_LINKS`, however deep. Without recursion: a request may be nested deeply."""
    waiting: list[Any] = [asked]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            for name, value in reversed(one.items()):
                if name in _LINKS and isinstance(value, str):
                    yield name, value
                else:
                    waiting.append(value)
        elif isinstance(one, list):
            waiting.extend(reversed(one))
