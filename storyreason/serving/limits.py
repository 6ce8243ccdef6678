"""Limits of a request: its pictures, which are never fetched, and how many answers it asks for."""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

from storyreason.pictures import BROWSER_FORMATS, PictureError, header
from storyreason.serving.config import ServingConfig
from storyreason.serving.errors import RefusedError

FORMATS = tuple(BROWSER_FORMATS)
MAX_PIXELS = 40_000_000
"""Pixels of one image, at most. No film frame has more; a decompression bomb of a few kilobytes has billions."""
MAX_TOTAL_PIXELS = 200_000_000
MAX_CHOICES = 8
"""Answers, prompts or conversations in one request."""

_LINKS = {"url", "image_url", "video_url", "audio_url", "file_url"}
"""Fields in which the engine expects an address to fetch."""


def decoded(images: Sequence[str], config: ServingConfig) -> list[bytes]:
    """The encoded pictures in data URLs or plain Base64. Raises RefusedError with the image's number, from 1."""
    most = config.images_per_prompt
    if len(images) > most:
        raise RefusedError(
            400, f"The request has {len(images)} images: send {most} at most (serving.images_per_prompt)."
        )
    pictures, together = [], 0
    for number, text in enumerate(images, 1):
        picture, pixels = _decoded(number, text)
        pictures.append(picture)
        together += pixels
    if together > MAX_TOTAL_PIXELS:
        raise RefusedError(400, f"The images have {together:,} pixels in total: send {MAX_TOTAL_PIXELS:,} at most.")
    return pictures


def _decoded(number: int, text: str) -> tuple[bytes, int]:
    try:
        encoded = base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
        _, width, height = header(encoded, FORMATS)
    except (ValueError, PictureError):
        raise RefusedError(
            400, f"Image {number} is not a picture in Base64: send {', '.join(FORMATS)}, as a data URL or plain Base64."
        ) from None
    if width * height > MAX_PIXELS:
        raise RefusedError(400, f"Image {number} has {width} x {height} pixels: send {MAX_PIXELS:,} at most.")
    return encoded, width * height


def check(body: bytes, config: ServingConfig) -> None:
    """Raise RefusedError unless the body of a request to the OpenAI interface may be forwarded to the engine.

    The engine would fetch any address in it; here every address must be a data URL with an acceptable picture.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The body is not JSON.") from None
    if not isinstance(asked, dict):
        raise RefusedError(400, "The body is not a JSON object.")
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
    """Each text in a field of `_LINKS`, at any depth. Not recursive, since a request may be nested deeply."""
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
