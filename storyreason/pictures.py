"""Encoded pictures (PNG, JPEG, ...): one policy that says what their pixels are, whoever looks.

This is the only place that opens pictures and knows what Pillow raises for bad ones: callers only see `PictureError`.
Before anything is decoded, the bytes are bounded (`imagefiles`), then pixels and shape. The pixels are those of the first
frame, turned as its orientation tag says, on white where it is transparent, 16 bits scaled to 8, in RGB. Colour profiles
are ignored: models see the stored numbers.

A picture is *ordinary* if every decoder sees these pixels anyway, which is true of most JPEG, PNG and WebP files.
`canonical` returns an ordinary picture unchanged and any other as a PNG of its pixels. That is what is stored in a data
set, handed to engines and shown.
"""

import base64
import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from storyreason import imagefiles
from storyreason.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

Seen = TypeVar("Seen")

BROWSER_FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""The formats that every browser shows, by their names in Pillow, and their media types."""
FORMATS = (*BROWSER_FORMATS, "AVIF", "BMP", "JPEG2000", "PPM", "TIFF")
"""The formats that a data set may come with."""
KEPT_FORMATS = ("JPEG", "PNG", "WEBP")
"""The formats of canonical pictures."""

ODD = {
    "format": "a format other than JPEG, PNG and WebP",
    "frames": "several frames",
    "turned": "an orientation tag",
    "transparent": "transparent parts",
    "16-bit": "16 bits for each colour",
    "colours": "colours other than RGB and grey",
    "metadata": "more metadata than decoders can be trusted with",
}
"""Why a picture is not ordinary, by name."""

ORIENTATION = 0x0112
"""The EXIF tag, 1 to 8; 5 to 8 swap the sides."""
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""`Image.Transpose` by orientation, as `ImageOps.exif_transpose` has it."""


class PictureError(DataError):
    """The bytes are not a readable picture. The message only gives the reason; callers add story and image."""


class Header(NamedTuple):
    """The format and the size (in pixels, after turning) that a picture's header declares."""

    format: str
    """The name in Pillow: `PNG`, `JPEG`, `TIFF`, ..."""
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


def header(encoded: bytes, formats: tuple[str, ...] = FORMATS) -> Header:
    """Format and size from the header alone. Only `formats` (names in Pillow) are accepted. Raises PictureError."""
    with _opened(encoded, formats) as opened:
        return Header(opened.picture.format or "", *opened.size)


def size(encoded: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header alone. Raises PictureError."""
    _, width, height = header(encoded)
    return width, height


def decoded_size(encoded: bytes) -> tuple[int, int]:
    """The same, but decodes the whole picture, so that truncated pictures raise PictureError."""
    with _opened(encoded) as opened:
        found = opened.size
        opened.verify()
        return found


def rgb(encoded: bytes) -> "Image":
    """The pixels in RGB. Raises PictureError."""
    with _opened(encoded) as opened:
        return opened.rgb()


def odd(encoded: bytes, formats: tuple[str, ...] = FORMATS) -> tuple[str, ...]:
    """Why the picture is not ordinary: names in `ODD`; none for an ordinary one. Raises PictureError."""
    with _opened(encoded, formats) as opened:
        return tuple(opened.odd())


def canonical(encoded: bytes, formats: tuple[str, ...] = FORMATS, whole: bool = True) -> bytes:
    """The same pixels in a form that every decoder reads alike; an ordinary picture is returned as it is.

    Raises PictureError, if `whole` also for a picture that breaks off; else an ordinary one is not decoded.
    """
    with _opened(encoded, formats) as opened:
        odd = opened.odd()
        if opened.needs_new_pixels(odd):
            return _saved(opened.rgb(), "PNG", compress_level=1)
        if whole:
            opened.verify()
        return opened.bare if odd else encoded


def as_stored(encoded: bytes) -> bytes:
    """A picture of a data set, canonical, with the pixels that it has always had there: the stored ones.

    What `import` and `add` write is ordinary, and returned as it is. Versions made before them may have other pictures,
    whose orientation, transparency and bits above 255 training has always ignored; so does this. Bytes that cannot be
    decoded are returned as they are: who uses them names story and image.
    """
    with suppress(PictureError), _opened(encoded) as opened:
        if opened.odd():
            return _saved(opened.picture.convert("RGB"), "PNG", compress_level=1)
    return encoded


def shown(encoded: bytes) -> tuple[bytes, str]:
    """The picture for browsers, and its media type, without metadata: what is shown is what models see.

    Browsers apply colour profiles, orientations and animations. Raises PictureError.
    """
    with _opened(encoded) as opened:
        if opened.needs_new_pixels(opened.odd()):
            return _saved(opened.rgb(), "PNG", compress_level=1), "image/png"
        return opened.bare, BROWSER_FORMATS[str(opened.picture.format)]


def open_frames(images: Sequence[bytes], story_id: str) -> "list[Image]":
    """The frames of a story as RGB pictures. Raises DataError with the story and the image (from 1)."""
    return each(rgb, images, story_id)


def each(look: Callable[[bytes], Seen], images: Sequence[bytes], story_id: str) -> list[Seen]:
    """What a function of this module says of each frame of a story. Raises DataError as `open_frames` does."""
    seen = []
    for number, encoded in enumerate(images, start=1):
        try:
            seen.append(look(encoded))
        except PictureError as error:
            raise DataError(f"Story {story_id}, image {number} does not decode as a picture ({error}).") from error
    return seen


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
    picture.info.clear()  # Pillow would save a profile or a clear colour with it
    picture.save(out, format, **options)
    return out.getvalue()


class _Opened:
    """A picture whose header was read and whose bounds hold."""

    def __init__(self, picture: "ImageFile", encoded: bytes, jpeg: imagefiles.Jpeg | None) -> None:
        self.picture = picture
        self._encoded = encoded
        self._jpeg = jpeg
        self._png = imagefiles.png(encoded) if picture.format == "PNG" else None
        self._orientation: int | None = None

    @property
    def orientation(self) -> int:
        """1 to 8; 1 if there is none that can be read."""
        if self._orientation is None:
            self._orientation = 1
            # Pillow turns a TIFF by itself, and decodes a PNG to look behind its pixels.
            if self.picture.format != "TIFF" and (self._png is None or self._png.may_turn):
                with suppress(*_damage()):
                    found = self.picture.getexif().get(ORIENTATION)
                    self._orientation = found if found in _TURNS else 1
        return self._orientation

    @property
    def size(self) -> tuple[int, int]:
        width, height = self.picture.size
        return (height, width) if self.orientation >= 5 else (width, height)

    @property
    def bare(self) -> bytes:
        """The file without metadata."""
        if self._jpeg is not None:
            return self._jpeg.bare
        if self._png is not None:
            return self._png.bare
        return imagefiles.webp(self._encoded) if self.picture.format == "WEBP" else self._encoded

    def odd(self) -> list[str]:
        """Names in `ODD`; decodes only to see whether an alpha channel is used."""
        picture, found = self.picture, []
        if picture.format not in KEPT_FORMATS:
            found.append("format")
        if self._frames():
            found.append("frames")
        if self.orientation != 1:
            found.append("turned")
        if picture.mode.startswith("I") or (self._png is not None and self._png.bits > 8):
            found.append("16-bit")
        elif picture.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            found.append("colours")
        if self._transparent():
            found.append("transparent")
        if self._jpeg is not None and not self._jpeg.plain:
            found.append("metadata")
        return found

    def needs_new_pixels(self, odd: list[str]) -> bool:
        """Whether leaving out the metadata is not enough to make it ordinary."""
        return any(name != "metadata" and not (name == "frames" and self._jpeg) for name in odd)

    def verify(self) -> None:
        """Decode everything and keep nothing: a JPEG at an eighth of its size, which is faster."""
        self.picture.draft(None, (1, 1))
        self.picture.load()

    def rgb(self) -> "Image":
        from PIL import Image

        self.picture.load()
        turn = self.orientation
        picture = _in_eight_bits(self.picture)
        if _has_alpha(picture):
            # As vLLM does. A large picture takes 160 MB, so it is not copied without need.
            picture = picture if picture.mode == "RGBA" else picture.convert("RGBA")
            white = Image.new("RGB", picture.size, (255, 255, 255))
            white.paste(picture, mask=picture.getchannel("A"))
            picture = white
        picture = picture if picture.mode == "RGB" else picture.convert("RGB")
        return picture if turn == 1 else picture.transpose(Image.Transpose(_TURNS[turn]))

    def _frames(self) -> bool:
        known = self._jpeg or self._png
        return known.frames if known is not None else bool(getattr(self.picture, "is_animated", False))

    def _transparent(self) -> bool:
        if "transparency" in self.picture.info:
            return True
        if not _has_alpha(self.picture):
            return False
        self.picture.load()
        return self.picture.getchannel("A").getextrema() != (255, 255)


def _has_alpha(picture: "Image") -> bool:
    return picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info


def _in_eight_bits(picture: "Image") -> "Image":
    """Grey of 16 bits as the high byte of each value, which is what Pillow makes of colours of 16 bits."""
    if not picture.mode.startswith("I"):
        return picture
    values = picture.convert("I")
    grey = values.point([value >> 8 for value in range(65536)], "L")
    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(values.point([255 * (value != clear) for value in range(65536)], "L"))
    return grey


def _damage() -> tuple[type[Exception], ...]:
    """What Pillow's decoders raise for damaged or hostile bytes. Its documentation names OSError alone."""
    from PIL import Image

    return (
        OSError, SyntaxError, ValueError, EOFError, TypeError, AttributeError, LookupError, ArithmeticError,
        RuntimeError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
    )  # fmt: skip


@contextmanager
def _opened(encoded: bytes, formats: tuple[str, ...] = FORMATS) -> Iterator[_Opened]:
    from PIL import Image, UnidentifiedImageError

    jpeg = None
    try:
        if encoded.startswith(b"\xff\xd8"):
            jpeg = imagefiles.jpeg(encoded)
        elif encoded[:2] in (b"II", b"MM"):
            imagefiles.bound_tiff(encoded)
        with Image.open(io.BytesIO(jpeg.lean if jpeg else encoded), formats=formats) as picture:
            imagefiles.bound(*picture.size)
            if picture.mode == "F" or (picture.mode == "I" and picture.format != "PPM"):
                raise PictureError("its values have 32 bits: save it with 8 or 16 bits")
            yield _Opened(picture, encoded, jpeg)
    except UnidentifiedImageError as error:  # its message only has the address of the buffer
        raise PictureError(imagefiles.unknown(encoded)) from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"more pixels than {imagefiles.MAX_PIXELS:,}") from error
    except _damage() as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError(str(error)) from error
