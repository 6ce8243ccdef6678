"""The bytes of picture files, before any decoder reads them: bounds, and the same file without its metadata.

Nothing here decodes. What it costs is linear in the bytes, whoever made them: Pillow joins the EXIF segments of a JPEG
quadratically, and libjpeg goes over all pixels once for each scan, of which a file of 20 MB may have a million.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

MAX_PIXELS = 40_000_000
"""Pixels of one picture, at most. No film frame has more; a decompression bomb of a few kilobytes has billions."""
MAX_RATIO = 200
"""The longer side by the shorter, at most: the processors of the Qwen-VL family refuse more."""
MIN_SIDE = 4
"""Pixels of a side, at least: processors may take three rows for three colours."""
MAX_PARTS = 10_000
"""Segments before a JPEG's first scan, chunks of a PNG that are no pixels, or entries of a TIFF's directory, at most."""
MAX_PIXEL_CHUNKS = 200_000
"""Chunks of a PNG's pixels, at most. Of 8 KiB, as libpng writes them, 40 million pixels need 40,000."""
MAX_SCANS = 100
"""Scans of a JPEG, at most. Progressive ones have about ten."""
MAX_METADATA = 64
"""Segments of metadata of a JPEG that other decoders may be trusted with. A photo has up to twenty."""

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_NEEDED = {0xE0, 0xEE, *range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD}
"""JFIF, Adobe's colour transform, and everything that is no metadata."""
_METADATA = {*range(0xE0, 0xF0), 0xFE}
_EXIF, _XMP, _FRAMES = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0"
_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_MAY_TURN = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
"""Keywords of a PNG's texts in which Pillow looks for an orientation."""


_UNSUPPORTED = {b"ftyphei": "HEIC", b"ftypmif1": "HEIC", b"ftypmsf1": "HEIC", b"<svg": "SVG"}


def unknown(encoded: bytes) -> str:
    """Why no decoder knows these bytes, as part of a sentence."""
    if not encoded:
        return "no bytes"
    names = [name for sign, name in _UNSUPPORTED.items() if sign in encoded[:512]]
    return f"{names[0]} is not supported: save it as JPEG or PNG" if names else "unknown picture format"


def bound(width: int, height: int) -> None:
    """Raises ValueError for a size, in pixels, that a model's processor or a machine's memory does not take."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels: {MAX_PIXELS:,} at most")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(f"{width} x {height} pixels: the longer side may be {MAX_RATIO} times the shorter at most")
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{width} x {height} pixels: {MIN_SIDE} x {MIN_SIDE} at least")


class Jpeg(NamedTuple):
    """A JPEG's parts."""

    lean: bytes
    """The file with its first EXIF and its first XMP as its only metadata: what Pillow is given."""
    bare: bytes
    """The file without metadata."""
    frames: bool
    """Whether other pictures follow (MPO: 3D cameras, and phones, for gain maps)."""
    plain: bool
    """Whether it has no more metadata than photos have, and nothing between its parts."""


def jpeg(encoded: bytes) -> Jpeg:
    """The parts of a JPEG, unchanged from its first scan on. Raises ValueError for more than the bounds allow."""
    needed, spoken = [b"\xff\xd8"], [b"\xff\xd8"]
    exif = xmp = metadata = 0
    frames, plain, scan = False, True, len(encoded)
    place = 2
    for marker, start, end in _segments(encoded):
        plain &= encoded[place : start - 1].strip(b"\xff") == b""
        place = end
        if marker == 0xDA:
            scan = start - 2
            break
        content, whole = encoded[start + 2 : end], encoded[start - 2 : end]
        metadata += marker in _METADATA
        plain &= marker in _NEEDED or marker in _METADATA
        if marker in _NEEDED:
            needed.append(whole)
            spoken.append(whole)
            continue
        exif += (is_exif := marker == 0xE1 and content.startswith(_EXIF))
        xmp += (is_xmp := marker == 0xE1 and content.startswith(_XMP))
        frames |= marker == 0xE2 and content.startswith(_FRAMES)
        if (is_exif and exif == 1) or (is_xmp and xmp == 1):
            spoken.append(whole)
    _bound_scans(encoded, scan)
    rest = encoded[scan:]
    plain &= exif <= 1 and xmp <= 1 and metadata <= MAX_METADATA
    return Jpeg(b"".join((*spoken, rest)), b"".join((*needed, rest)), frames, plain)


def _segments(encoded: bytes, place: int = 2) -> Iterator[tuple[int, int, int]]:
    """Marker, start (at its length) and end of each segment up to the end of the image; stops where the file is cut."""
    for _ in range(MAX_PARTS):
        found = _MARKER.search(encoded, place)
        if found is None or (marker := encoded[found.end() - 1]) == 0xD9:
            return
        start = place = found.end()
        if marker in (0x01, 0xD8):
            continue
        if start + 2 > len(encoded):
            return
        place = start + max(2, int.from_bytes(encoded[start : start + 2]))
        yield marker, start, place
    raise ValueError(f"a JPEG of more than {MAX_PARTS:,} segments")


def _bound_scans(encoded: bytes, scan: int) -> None:
    # Other pictures may follow the first, and their bytes may look like scans: count exactly only where it matters.
    if encoded.count(b"\xff\xda", scan) > MAX_SCANS:
        scans = sum(marker == 0xDA for marker, _, _ in _segments(encoded, scan))
        if scans > MAX_SCANS:
            raise ValueError(f"a JPEG of {scans:,} scans, {MAX_SCANS} at most")


class Png(NamedTuple):
    """What a PNG's chunks say."""

    bare: bytes
    """The file without metadata: no profile, no gamma, no texts, no other frames."""
    may_turn: bool
    """Whether there is metadata that may have an orientation."""
    frames: bool
    """Whether it is an animation."""
    bits: int
    """Bits for each value: 1, 2, 4, 8 or 16."""


def png(encoded: bytes) -> Png:
    """The chunks of a PNG. Raises ValueError for more than the bounds allow."""
    kept, may_turn, frames = [encoded[:8]], False, False
    place, others, pixels = 8, 0, 0
    while place + 12 <= len(encoded):
        length, kind = struct.unpack_from(">I4s", encoded, place)
        end = place + 12 + length
        if kind in _PIXELS:
            kept.append(encoded[place:end])
            pixels += 1
        else:
            others += 1
            frames |= kind == b"acTL"
            content = place + 8
            may_turn |= kind == b"eXIf" or encoded.startswith(_MAY_TURN, content)
        if others > MAX_PARTS or pixels > MAX_PIXEL_CHUNKS:
            raise ValueError(f"a PNG of more than {MAX_PARTS:,} chunks of metadata, or {MAX_PIXEL_CHUNKS:,} of pixels")
        place = end
        if kind == b"IEND":
            break
    return Png(b"".join(kept), may_turn, frames, encoded[24] if len(encoded) > 24 else 8)


def webp(encoded: bytes) -> bytes:
    """A still WebP without alpha as the simplest file: its pixels alone."""
    place = 12
    while place + 8 <= len(encoded):
        kind, length = struct.unpack_from("<4sI", encoded, place)
        end = place + 8 + length + length % 2
        if kind in (b"VP8 ", b"VP8L"):
            chunk = encoded[place:end]
            return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
        place = end
    return encoded


def bound_tiff(encoded: bytes) -> None:
    """Raises ValueError for a TIFF whose directory is larger than the file: its entries may all point at the same bytes."""
    order = "<" if encoded.startswith(b"II") else ">"
    big = encoded[2:4] in (b"+\0", b"\0+")
    try:
        place = struct.unpack_from(f"{order}Q" if big else f"{order}I", encoded, 8 if big else 4)[0]
        count = struct.unpack_from(f"{order}Q" if big else f"{order}H", encoded, place)[0]
        entries = range(place + (8 if big else 2), len(encoded) - 11, 20 if big else 12)[: min(count, MAX_PARTS + 1)]
        sizes = [struct.unpack_from(f"{order}HHQ" if big else f"{order}HHI", encoded, entry) for entry in entries]
    except struct.error:
        raise ValueError("a TIFF without a directory") from None
    # 8 bytes are the largest unit of a value.
    if count > MAX_PARTS or sum(8 * size for _, _, size in sizes) > 8 * len(encoded):
        raise ValueError("a TIFF whose directory is larger than the file")
