"""Looks that were embedded before: kept by picture, box, mask and model, so that each is embedded once.

Another detector, threshold or face finder then costs only what is new. The last bits of an embedding may depend on what else
was embedded with it: what is kept stays as it is.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from storyreason import runs
from storyreason.perception import frames

Area = tuple[tuple[float, float, float, float], np.ndarray | None]
"""A box in pixels, and the mask in the picture, if there is one."""


class Known:
    """The looks of a film by one model, in a parquet file of `folder`. Without a folder, nothing is kept."""

    def __init__(self, model: str, folder: Path | None) -> None:
        self._file = folder and folder / f"{runs.fingerprint(looks=model)}.parquet"
        self._looks = _read(self._file) if self._file else {}
        self._before = len(self._looks)
        self.embedded = 0
        """How many were not known."""

    def looks(self, picture: bytes, areas: Sequence[Area], embed: Callable[[list[int]], np.ndarray]) -> np.ndarray:
        """The looks of areas of an encoded picture, float32 of shape [areas, d]; `embed` gives those at some places."""
        digest = hashlib.sha256(picture).digest()
        keys = [_key(digest, *area) for area in areas]
        if new := [at for at, key in enumerate(keys) if key not in self._looks]:
            self._looks |= {keys[at]: look for at, look in zip(new, embed(new), strict=True)}
            self.embedded += len(new)
        return np.stack([self._looks[key] for key in keys])

    def keep(self) -> None:
        """Write what is known, completely or not at all. Raises RunError if it cannot be written."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._file is None or len(self._looks) == self._before:
            return
        rows = {"key": list(self._looks), "look": [look.astype(np.float32).tobytes() for look in self._looks.values()]}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(rows), sink, compression="none", use_dictionary=False)
        try:
            runs.write_bytes(self._file, sink.getvalue().to_pybytes())
        except OSError as error:
            raise frames.unwritable(self._file, error) from error


def _key(picture: bytes, box: Sequence[float], mask: np.ndarray | None) -> bytes:
    digest = hashlib.sha256(picture)
    digest.update(np.array(box, np.float64).tobytes())
    if mask is not None:
        digest.update(np.packbits(mask).tobytes())
    return digest.digest()[:16]


def _read(file: Path) -> dict[bytes, np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, columns=["key", "look"])
    except (FileNotFoundError, pa.ArrowException, KeyError):  # none, or damaged: they are made again
        return {}
    keys, looks = (table.column(name).to_pylist() for name in ("key", "look"))
    return {key: np.frombuffer(look, np.float32) for key, look in zip(keys, looks, strict=True)}
