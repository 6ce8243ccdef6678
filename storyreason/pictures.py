"""Encoded pictures (PNG, JPEG, ...): type, size, pixels, thumbnails and data URLs.

This is the only place that opens pictures and knows what Pillow raises for bad ones: callers only see `PictureError`.
"""

import base64
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from storyreason.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

BROWSER_FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""The formats that every browser shows, by their names in Pillow, and their media types."""


class PictureError(DataError):
    """The bytes are not a readable picture. The message only gives the reason; callers add story and image."""


class Header(NamedTuple):
    """The format and the size (in pixels) that a picture's header declares."""

    format: str
    """The name in Pillow: `PNG`, `JPEG`, `MPO`, ..."""
    width: int
    height: int

    @property
    def media_type(self) -> str | None:
        """Such as `image/png`; None for a format that browsers do not show."""
        return BROWSER_FORMATS.get(self.format)


def sniff(encoded: bytes) -> str | None:
    """`png`, `jpeg`, `webp` or `gif` by the first bytes, else None. Cheap: the picture is not opened.

    >>> sniff(b"GIF89a...")
    'gif'
    """
    if encoded.startswith(b"\x89PNG"):
        return "png"
    if encoded.startswith(b"\xff\xd8"):
        return "jpeg"
    if encoded[8:12] == b"WEBP":
        return "webp"
    return "gif" if encoded.startswith(b"GIF8") else None


def header(encoded: bytes, formats: tuple[str, ...] | None = None) -> Header:
    """Format and size from the header alone. Only `formats` (names in Pillow) are accepted. Raises PictureError."""
    with _opened(encoded, formats) as picture:
        return Header(picture.format or "", *picture.size)


def size(encoded: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header alone. Raises PictureError."""
    with _opened(encoded) as picture:
        return picture.size


def decoded_size(encoded: bytes) -> tuple[int, int]:
    """The same, but decodes every pixel, so that truncated pictures raise PictureError."""
    with _opened(encoded) as picture:
        picture.load()
        return picture.size


def rgb(encoded: bytes) -> "Image":
    """The decoded picture in RGB. Raises PictureError."""
    with _opened(encoded) as picture:
        return picture.convert("RGB")


def open_frames(images: Sequence[bytes], story_id: str) -> "list[Image]":
    """The frames of a story as RGB pictures. Raises DataError with the story and the image (from 1)."""
    opened = []
    for number, encoded in enumerate(images, start=1):
        try:
            opened.append(rgb(encoded))
        except PictureError as error:
            raise DataError(f"Story {story_id}, image {number} does not decode as a picture ({error}).") from error
    return opened


def png(encoded: bytes) -> bytes:
    """The picture as PNG in RGB. Raises PictureError."""
    return _saved(rgb(encoded), "PNG")


def thumbnail(encoded: bytes, side: int) -> bytes:
    """A JPEG of at most `side` x `side` pixels. Raises PictureError."""
    small = rgb(encoded)
    small.thumbnail((side, side))
    return _saved(small, "JPEG", quality=80)


def data_url(encoded: bytes, media_type: str | None = None) -> str:
    """`data:image/png;base64,...`. The default media type is that of the first bytes, or PNG if they are unknown."""
    kind = media_type or f"image/{sniff(encoded) or 'png'}"
    return f"data:{kind};base64,{base64.b64encode(encoded).decode()}"


def from_data_url(url: str) -> bytes:
    """The encoded picture in a Base64 data URL. Raises PictureError."""
    try:
        return base64.b64decode(url.partition(",")[2])
    except ValueError as error:
        raise PictureError(str(error)) from error


def _saved(picture: "Image", format: str, **options: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


@contextmanager
def _opened(encoded: bytes, formats: tuple[str, ...] | None = None) -> "Iterator[ImageFile]":
    from PIL import Image, UnidentifiedImageError

    # What Pillow's decoders raise for damaged or hostile bytes. Its documentation names OSError alone.
    bad = (
        OSError, SyntaxError, ValueError, EOFError, TypeError, AttributeError, LookupError, ArithmeticError,
        RuntimeError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
    )  # fmt: skip
    try:
        with Image.open(io.BytesIO(encoded), formats=formats) as picture:
            yield picture
    except UnidentifiedImageError as error:  # its message only has the address of the buffer
        raise PictureError("unknown picture format") from error
    except bad as error:
        raise PictureError(str(error)) from error
