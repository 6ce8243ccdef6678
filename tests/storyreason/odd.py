"""Odd pictures, made by Pillow or by hand, and the pixels that every part of the product must see in them."""

import base64
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SIDES = 40, 30
PLAIN = Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * turn).resize(SIDES) for turn in range(3)])
"""No two corners of it are alike."""


@dataclass(frozen=True, slots=True)
class Odd:
    """A picture, and what becomes of it."""

    encoded: bytes
    pixels: np.ndarray | None = None
    """uint8 [height, width, 3]; None if it is refused."""
    why: tuple[str, ...] = ()
    """Names in `pictures.ODD`; none for an ordinary picture, which is never changed."""
    refused: str = ""
    """A part of the sentence that refuses it."""
    served: bool = True
    """Whether a request may have it; a data set may come with more formats."""
    stored: np.ndarray | None = None
    """The pixels of such a picture in a data version from before pictures were normalized; `pixels` if None."""


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.copy().save(out, format, **options)  # a picture remembers how it was saved
    return out.getvalue()


def pixels(encoded: bytes | Image.Image) -> np.ndarray:
    """What plain Pillow sees."""
    return np.asarray((Image.open(io.BytesIO(encoded)) if isinstance(encoded, bytes) else encoded).convert("RGB"))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""The definition of orientations in EXIF 2.32, table 6, as views of [height, width, 3]."""


def turned(format: str, orientation: int, **options: Any) -> Odd:
    encoded = saved(PLAIN, format, exif=exif(orientation), **options)
    stored = pixels(encoded)
    return Odd(encoded, TURNED[orientation](stored), ("turned",), stored=stored)


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def png(
    colour: int, bits: int, rows: bytes, *before: bytes, sides: tuple[int, int] = SIDES, after: bytes = b""
) -> bytes:
    """A PNG by hand: chunks before and after its pixels."""
    head = struct.pack(">IIBBBBB", *sides, bits, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", head), *before, chunk(b"IDAT", zlib.compress(rows)), after, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rows(values: np.ndarray, depth: str = ">u1") -> bytes:
    return b"".join(b"\0" + row.astype(depth).tobytes() for row in values)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content


def with_segments(*segments: bytes) -> bytes:
    """A JPEG with segments after its first two bytes."""
    plain = saved(PLAIN, "JPEG", quality=90)
    return plain[:2] + b"".join(segments) + plain[2:]


def claims(width: int, height: int) -> bytes:
    """A PNG whose header says so, with the pixels of eight rows."""
    return png(2, 8, bytes(8 * 25), sides=(width, height))


def _alpha() -> dict[str, Odd]:
    alpha = Image.linear_gradient("L").resize(SIDES)
    clear = PLAIN.copy()
    clear.putalpha(alpha)
    white = pixels(Image.composite(PLAIN, Image.new("RGB", SIDES, "white"), alpha))
    grey = clear.convert("LA")
    greys = pixels(Image.composite(PLAIN.convert("L"), Image.new("L", SIDES, 255), alpha))
    opaque = PLAIN.copy()
    opaque.putalpha(255)
    palette = PLAIN.quantize(16)
    used = np.asarray(palette) == 3
    on_palette = np.where(used[..., None], np.uint8(255), pixels(palette))
    keyed = np.asarray(PLAIN).copy()
    keyed[:4] = (1, 2, 3)
    key = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    keyed_rgb = png(2, 8, rows(keyed.reshape(30, -1)), key)
    white_keyed = keyed.copy()
    white_keyed[:4] = 255
    seen = ("transparent",)
    webp = saved(clear, "WEBP", lossless=True, exact=True)
    return {
        "PNG with alpha": Odd(saved(clear, "PNG"), white, seen, stored=pixels(PLAIN)),
        "PNG with grey and alpha": Odd(saved(grey, "PNG"), greys, seen, stored=pixels(PLAIN.convert("L"))),
        "PNG with opaque alpha": Odd(saved(opaque, "PNG"), pixels(PLAIN)),
        "PNG with a clear palette entry": Odd(
            saved(palette, "PNG", transparency=3), on_palette, seen, stored=pixels(palette)
        ),
        "PNG with a clear colour": Odd(keyed_rgb, white_keyed, seen, stored=keyed),
        "WebP with alpha": Odd(webp, white, seen, stored=pixels(webp)),
        "GIF with a clear entry": Odd(
            saved(palette, "GIF", transparency=3), on_palette, ("format", "transparent"), stored=pixels(palette)
        ),
    }


def _deep() -> dict[str, Odd]:
    values = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    grey = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2)
    clipped = np.repeat(np.minimum(values, 255).astype(np.uint8)[..., None], 3, 2)
    colours = np.repeat(values[..., None], 3, 2)
    clear = grey.copy()
    clear[0, 0] = 255
    key = chunk(b"tRNS", b"\0\0")
    tiff = saved(Image.fromarray(values), "TIFF")
    return {
        "PNG of 16-bit grey": Odd(png(0, 16, rows(values, ">u2")), grey, ("16-bit",), stored=clipped),
        "PNG of 16-bit grey, one value clear": Odd(
            png(0, 16, rows(values, ">u2"), key), clear, ("16-bit", "transparent"), stored=clipped
        ),
        "PNG of 16-bit colours": Odd(png(2, 16, rows(colours.reshape(30, -1), ">u2")), grey, ("16-bit",)),
        "TIFF of 16-bit grey": Odd(tiff, grey, ("format", "16-bit"), served=False, stored=clipped),
        "TIFF of floats": Odd(
            saved(Image.fromarray(values.astype(np.float32)), "TIFF"), refused="32 bits", served=False, stored=clipped
        ),
    }


def _plain() -> dict[str, Odd]:
    jpeg, grey = saved(PLAIN, "JPEG", quality=90), saved(PLAIN.convert("L"), "JPEG")
    lossy, lossless = saved(PLAIN, "WEBP"), saved(PLAIN, "WEBP", lossless=True)
    palette, bits = PLAIN.quantize(16), PLAIN.convert("1")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {
        "JPEG": Odd(jpeg, pixels(jpeg)),
        "JPEG, progressive": Odd(e := saved(PLAIN, "JPEG", progressive=True), pixels(e)),
        "JPEG in grey": Odd(grey, pixels(grey)),
        "JPEG with a profile": Odd(e := saved(PLAIN, "JPEG", icc_profile=profile), pixels(e)),
        "JPEG with a comment": Odd(e := with_segments(segment(0xFE, b"made by hand")), pixels(e)),
        "JPEG with bytes after it": Odd(jpeg + b"\xff\xda" * 500, pixels(jpeg)),
        "JPEG with EXIF that is damaged": Odd(
            e := with_segments(segment(0xE1, b"Exif\0\0MM\0*\xff\xff")), pixels(jpeg)
        ),
        "PNG": Odd(saved(PLAIN, "PNG"), pixels(PLAIN)),
        "PNG, interlaced": Odd(interlaced(), pixels(PLAIN)),
        "PNG in grey": Odd(saved(PLAIN.convert("L"), "PNG"), pixels(PLAIN.convert("L"))),
        "PNG of 1 bit": Odd(saved(bits, "PNG"), pixels(bits)),
        "PNG with a palette": Odd(saved(palette, "PNG"), pixels(palette)),
        "PNG with a profile": Odd(saved(PLAIN, "PNG", icc_profile=profile), pixels(PLAIN)),
        "PNG with a gamma": Odd(
            png(2, 8, rows(pixels(PLAIN).reshape(30, -1)), chunk(b"gAMA", (100_000).to_bytes(4))), pixels(PLAIN)
        ),
        "WebP": Odd(lossy, pixels(lossy)),
        "WebP, lossless": Odd(lossless, pixels(lossless)),
        "WebP with a profile": Odd(e := saved(PLAIN, "WEBP", icc_profile=profile), pixels(e)),
    }


def interlaced() -> bytes:
    """Adam7, which Pillow does not write."""
    values, passes = pixels(PLAIN), b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        part = values[y::dy, x::dx]
        passes += rows(part.reshape(len(part), -1))
    plain = png(2, 8, passes)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *SIDES, 8, 2, 0, 0, 1))
    return plain[:8] + head + plain[8 + len(head) :]


def _formats() -> dict[str, Odd]:
    turned_round = PLAIN.rotate(180)
    animated: dict[str, Any] = {"save_all": True, "append_images": [turned_round]}
    gif, cmyk = saved(PLAIN, "GIF"), saved(PLAIN.convert("CMYK"), "JPEG")
    mpo = saved(PLAIN, "MPO", **animated)
    mpo_turned = saved(PLAIN, "MPO", exif=exif(6), **animated)
    several = saved(PLAIN, "GIF", **animated)
    webp = saved(PLAIN, "WEBP", lossless=True, **animated)
    avif, jp2 = saved(PLAIN, "AVIF"), saved(PLAIN, "JPEG2000")
    return {
        "GIF": Odd(gif, pixels(gif), ("format",)),
        "GIF, animated": Odd(several, pixels(several), ("format", "frames")),
        "PNG, animated": Odd(saved(PLAIN, "PNG", **animated), pixels(PLAIN), ("frames",)),
        "WebP, animated": Odd(webp, pixels(webp), ("frames",)),
        "MPO": Odd(mpo, pixels(mpo), ("frames",)),
        "MPO, turned": Odd(mpo_turned, TURNED[6](pixels(mpo_turned)), ("frames", "turned"), stored=pixels(mpo_turned)),
        "JPEG in CMYK": Odd(cmyk, pixels(cmyk), ("colours",)),
        "TIFF": Odd(saved(PLAIN, "TIFF"), pixels(PLAIN), ("format",), served=False),
        "TIFF, turned": Odd(
            saved(PLAIN, "TIFF", tiffinfo={0x0112: 6}), TURNED[6](pixels(PLAIN)), ("format",), served=False
        ),
        "TIFF of several pages": Odd(
            saved(PLAIN, "TIFF", save_all=True, append_images=[PLAIN.rotate(180)]),
            pixels(PLAIN),
            ("format", "frames"),
            served=False,
        ),
        "BMP": Odd(saved(PLAIN, "BMP"), pixels(PLAIN), ("format",), served=False),
        "AVIF": Odd(avif, pixels(avif), ("format",), served=False),
        "JPEG 2000": Odd(jp2, pixels(jp2), ("format",), served=False),
        "JPEG of 200 comments": Odd(
            with_segments(*[segment(0xFE, b"x")] * 200), pixels(saved(PLAIN, "JPEG", quality=90)), ("metadata",)
        ),
        "JPEG of two EXIF segments": Odd(
            with_segments(*[segment(0xE1, b"Exif\0\0" + exif(6).tobytes()[6:])] * 2),
            TURNED[6](pixels(saved(PLAIN, "JPEG", quality=90))),
            ("turned", "metadata"),
            stored=pixels(saved(PLAIN, "JPEG", quality=90)),
        ),
        "PNG turned after its pixels": Odd(
            png(2, 8, rows(pixels(PLAIN).reshape(30, -1)), after=chunk(b"eXIf", exif(8).tobytes()[6:])),
            TURNED[8](pixels(PLAIN)),
            ("turned",),
            stored=pixels(PLAIN),
        ),
        "JPEG turned by XMP": Odd(
            with_segments(segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="3"/>')),
            TURNED[3](pixels(saved(PLAIN, "JPEG", quality=90))),
            ("turned",),
            stored=pixels(saved(PLAIN, "JPEG", quality=90)),
        ),
    }


def _refused() -> dict[str, Odd]:
    jpeg, mpo = saved(PLAIN, "JPEG"), saved(PLAIN, "MPO", save_all=True, append_images=[PLAIN])
    whole = saved(PLAIN, "PNG")
    scan = b"\xff\xda" + saved(PLAIN, "JPEG", progressive=True).rpartition(b"\xff\xda")[2]
    progressive = saved(PLAIN, "JPEG", progressive=True)[:-2]
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    unknown = "unknown picture format"
    found = {
        "no bytes": (b"", "no bytes"),
        "no picture": (b"hello" * 20, unknown),
        "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG is not supported: save it"),
        "HEIC": (heic, "HEIC is not supported: save it"),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n", unknown),
        "JPEG, cut": (jpeg[: jpeg.index(b"\xff\xda") + 60], "truncated"),
        "JPEG, cut in its header": (jpeg[:100], ""),
        "MPO, cut": (mpo[: mpo.index(b"\xff\xda") + 60], "truncated"),
        "PNG, cut": (whole[: len(whole) // 2], "truncated"),
        "PNG, damaged": (whole[:60] + b"\0\0\0\0" + whole[64:], ""),
        "WebP, cut": (saved(PLAIN, "WEBP")[:60], ""),
        "GIF, cut": (saved(PLAIN, "GIF")[:60], ""),
        "thin": (saved(Image.new("RGB", (4000, 10)), "PNG"), "the longer side may be 200 times the shorter at most"),
        "thin, upright": (saved(Image.new("RGB", (5, 1005)), "PNG"), "200 times"),
        "a pixel": (saved(Image.new("RGB", (1, 1)), "PNG"), "1 x 1 pixels: 4 x 4 at least"),
        "three rows": (saved(Image.new("RGB", (90, 3)), "PNG"), "90 x 3 pixels: 4 x 4 at least"),
        "too large": (claims(8000, 5001), "8000 x 5001 pixels: 40,000,000 at most"),
        "a bomb": (claims(50_000, 50_000), "pixels"),
        "JPEG of 80,000 EXIF segments": (
            with_segments(*[segment(0xE1, b"Exif\0\0" + b"x" * 8)] * 80_000), "more than 10,000 segments",
        ),
        "JPEG of 1,000 scans": (progressive + scan[:-2] * 1000 + b"\xff\xd9", "scans, 100 at most"),
        "PNG of 20,000 texts": (
            png(2, 8, rows(pixels(PLAIN).reshape(30, -1)), *[chunk(b"tEXt", b"a\0b")] * 20_000), "chunks",
        ),
    }  # fmt: skip
    return {name: Odd(encoded, refused=sentence or " ") for name, (encoded, sentence) in found.items()}


PICTURES: dict[str, Odd] = {
    **_plain(),
    **{f"JPEG, orientation {number}": turned("JPEG", number, quality=90) for number in range(2, 9)},
    "PNG, orientation 6": turned("PNG", 6),
    "WebP, orientation 8": turned("WEBP", 8, lossless=True),
    **_alpha(),
    **_deep(),
    **_formats(),
    **_refused(),
}


def text(encoded: bytes) -> str:
    return base64.b64encode(encoded).decode()
