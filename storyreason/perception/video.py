"""The pictures of a video, in the order in which they are shown, each decoded once."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storyreason.errors import DataError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

WIDTH = 256
"""Pixels of the small pictures by which cuts are found and frames are chosen: as `scenedetect` does by default."""
PQ, HLG = 16, 18
"""The transfer characteristics of HDR videos (ITU-T H.273, table 3)."""
WHITE, PEAK = 203.0, 1000.0
"""Candela a square metre of paper white (ITU-R BT.2408), and of what stays white on an ordinary display."""


@dataclass(frozen=True)
class Seen:
    """A picture of a film while it is read."""

    number: int
    """Counted from 0."""
    seconds: float | None
    source: str
    small: np.ndarray
    """At most `WIDTH` wide, BGR, uint8 of shape [height, width, 3]."""
    pixels: Callable[[], np.ndarray]
    """All of it: RGB, uint8 of shape [height, width, 3]."""
    scene: int | None = None
    """Where the source says it."""
    encoded: bytes | None = None
    """The picture file that it is."""


class Video:
    """A video file. Raises DataError if it cannot be opened or has no pictures."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as (container, stream):
            self.rate: float | None = float(stream.average_rate or stream.guessed_rate or 24)
            if stream.duration and stream.time_base:
                self.duration: float | None = float(stream.duration * stream.time_base)
            else:
                self.duration = container.duration / 1e6 if container.duration else None
            self.count = stream.frames or round((self.duration or 0) * (self.rate or 0))
        self.problem: str | None = None
        """What was wrong with the file, once it is read."""

    def frames(self) -> Iterator[Seen]:
        """Its pictures, turned as the file says, with square pixels, and HDR tone-mapped."""
        import av

        number, end = -1, 0.0
        with self._opened() as (container, stream):
            stream.thread_type = "AUTO"
            start = float((stream.start_time or 0) * (stream.time_base or 0))
            shape = stream.sample_aspect_ratio or 1
            try:
                for number, frame in enumerate(container.decode(stream)):
                    seconds = max(0.0, frame.time - start) if frame.time is not None else None
                    end = max(end, seconds or 0.0)
                    yield Seen(number, seconds, self.path.name, _small(frame, shape), _Pixels(frame, float(shape)))
            except av.error.FFmpegError as error:
                self.problem = (
                    f"{self.path} breaks off after {end:.1f} s ({error.strerror}): the frames up to there are kept."
                )
        if number < 0:
            raise DataError(f"{self.path} has no frames: name another file, or leave it out.")
        # The last frame lasts as long as any other; containers also count the sound.
        missing = (self.duration or 0.0) - end - 2 / (self.rate or 24)
        if self.problem is None and missing > max(0.5, 0.02 * end):
            self.problem = (
                f"{self.path} breaks off after {end:.1f} of {self.duration:.1f} s: the frames up to there are kept."
            )

    @contextmanager
    def _opened(self) -> "Iterator[tuple[InputContainer, VideoStream]]":
        import av

        try:
            # Titles are not read, and may be in any encoding.
            container = av.open(str(self.path), metadata_errors="replace")
        except (av.error.FFmpegError, OSError) as error:
            raise DataError(
                f"{self.path} cannot be read as a video ({error.strerror}): copy or download it again, or leave it out."
            ) from error
        with container:
            # A cover picture of a sound file is a stream too.
            streams = [one for one in container.streams.video if not _is_cover(one)]
            if not streams:
                raise DataError(f"{self.path} has no picture stream: name another file, or leave it out.")
            yield container, streams[0]


def _is_cover(stream: "VideoStream") -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


@dataclass(frozen=True)
class _Pixels:
    """The pixels of a decoded frame, made when they are wanted: most frames are not kept."""

    frame: "VideoFrame"
    shape: float
    """The width of a pixel by its height."""

    def __call__(self) -> np.ndarray:
        frame = self.frame
        wanted: dict[str, Any] = {"width": max(1, round(frame.width * self.shape)), "height": frame.height}
        if frame.color_trc in (PQ, HLG):
            wide = frame.reformat(**wanted, format="rgb48le").to_ndarray()
            return _turned(tone_mapped(wide, frame.color_trc), frame.rotation)
        return _turned(frame.reformat(**wanted, format="rgb24").to_ndarray(), frame.rotation)


def _small(frame: "VideoFrame", shape: Any) -> np.ndarray:
    width = min(WIDTH, frame.width)
    height = max(1, round(width / float(shape) * frame.height / frame.width))
    return _turned(frame.reformat(width=width, height=height, format="bgr24").to_ndarray(), frame.rotation)


def _turned(pixels: np.ndarray, degrees: int) -> np.ndarray:
    """Turned counterclockwise, in steps of 90 degrees."""
    return np.ascontiguousarray(np.rot90(pixels, round(degrees / 90))) if degrees else pixels


def tone_mapped(pixels: np.ndarray, transfer: int) -> np.ndarray:
    """HDR as ordinary RGB: uint16 of shape [height, width, 3] in BT.2020 as uint8 in BT.709.

    The curves are those of ITU-R BT.2100 (tables 4 and 5), the colours are converted as in BT.2087. Light up to paper white
    keeps its order and most of its contrast; what is brighter is pressed together by Reinhard's curve, with a white point
    (Reinhard et al. 2002, equation 4).
    """
    signal = pixels.astype(np.float32) / 65535
    light = _pq(signal) if transfer == PQ else _hlg(signal)
    light /= WHITE
    into = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
    light = np.maximum(light @ into.T, 0)
    brightest = light.max(axis=2, keepdims=True)
    light *= (1 + brightest / (PEAK / WHITE) ** 2) / (1 + brightest)
    shown: np.ndarray = np.clip(light, 0, 1) ** (1 / 2.2)
    return (shown * 255 + 0.5).astype(np.uint8)


def _pq(signal: np.ndarray) -> np.ndarray:
    """Candela a square metre."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = signal ** (1 / m2)
    found: np.ndarray = 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    return found


def _hlg(signal: np.ndarray) -> np.ndarray:
    """Candela a square metre on a display of 1,000."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    found: np.ndarray = 1000 * np.maximum(luminance, 1e-9)[..., None] ** (1.2 - 1) * scene
    return found


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """An RGB picture as `Seen.small` has it."""
    import cv2

    height, width = pixels.shape[:2]
    across = min(WIDTH, width)
    size = (across, max(1, math.ceil(height * across / width)))
    return np.ascontiguousarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)[:, :, ::-1])
