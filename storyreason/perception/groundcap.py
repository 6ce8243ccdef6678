"""GroundCap's layout as films: a data set of single frames whose IDs say which film and scene they are of.

A row is a frame, in parquet files: `id` (text), `image` (the bytes of a picture), `detections`, `caption` and `human_annotated`.
The ID begins with the film, and then the scene: `tt0050083_scene_12_3`, `tt0050083_seq_12_3`, `tt0050083_shot_0012_img_1`, or
`tt0050083_12_3`. Frames become pictures in a folder for each film, with one for each scene in it, as `sources` reads them. Boxes
and captions are not taken: they have no identities, and are of frames from which bars are not cut off.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storyreason import runs
from storyreason.errors import DataError

VERSION = 1
"""Raise it when the same rows become other pictures."""
BATCH = 64
"""Rows in memory at a time."""
_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_NAMED = re.compile(r"(.+?)_(?:scene|seq|shot)_?([0-9]+)", re.IGNORECASE)
_COUNTED = re.compile(r"([^_]+)_([0-9]+)(?:_|$)")


def names_one(path: Path) -> bool:
    """Whether a path is none, but may be a data set's name on the Hub, such as `daniel3303/GroundCap`."""
    return _NAME.fullmatch(str(path)) is not None and not path.exists() and not path.parent.exists()


def files(folder: Path) -> list[Path]:
    """The parquet files in a folder, and in its folder `data`, if they have GroundCap's columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])
    try:
        ours = bool(found) and all({"id", "image"} <= set(pq.read_schema(one).names) for one in found)
    except (pa.ArrowException, OSError):
        return []
    return found if ours else []


def fetched(name: str) -> Path:
    """The folder of a data set of the Hub, fetched unless it was before; `name@revision` is one version of it.

    Raises DataError.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        kept = snapshot_download(
            repository, repo_type="dataset", revision=revision or None, allow_patterns=["*.parquet", "data/*.parquet"]
        )
    except Exception as error:  # the Hub's client raises its own, those of its HTTP library, OSError and ValueError
        why = " ".join(str(error).split())[:300]
        raise DataError(
            f"There is no {name} here, and no data set of this name can be fetched from the Hub: {why}"
        ) from error
    if not files(Path(kept)):
        raise DataError(f"{name} has no parquet files with the columns id and image: only GroundCap's layout is read.")
    return Path(kept)


def films(folder: Path) -> Path:
    """A folder with a folder for each film of GroundCap's files in `folder`, made once, in `runs/groundcap`.

    Raises DataError for a row whose ID is not the name of a file.
    """
    digest = hashlib.sha256()
    for file in files(folder):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    place = runs.work_folder("groundcap", runs.fingerprint(version=VERSION, content=digest.hexdigest()))
    out = place / "films"
    with runs.lock(place):
        if runs.read_manifest(place) is None:
            for row in _rows(folder):
                # Frames with a caption by people are there twice.
                path = out / _place(str(row["id"]), folder)
                if not path.exists():
                    runs.write_bytes(path, _bytes(row["image"]))
            runs.write_manifest(place, ("films",))
    return out


def film_and_scene(identity: str) -> tuple[str, str]:
    """The film and the scene that an ID tells; without either, it is a film of one scene.

    >>> film_and_scene("tt0050083_scene_12_3"), film_and_scene("tt0050083_12_3"), film_and_scene("tt0050083_x")
    (('tt0050083', '12'), ('tt0050083', '12'), ('tt0050083', '0'))
    """
    told = _NAMED.match(identity) or _COUNTED.match(identity)
    return (told[1], told[2]) if told else (identity.partition("_")[0], "0")


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in files(folder):
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=BATCH, columns=["id", "image"]):
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read as parquet ({error}): fetch it again.") from error


def _place(identity: str, folder: Path) -> Path:
    film, scene = film_and_scene(identity)
    if not re.fullmatch(r"\w[\w. -]*", identity):
        raise DataError(f"{folder} has a frame whose id is {identity!r}: a name without / is expected.")
    return Path(film, scene, f"{identity}.jpg")


def _bytes(image: Any) -> bytes:
    """The file of a picture; what is none is named when films are read."""
    return bytes((image or {}).get("bytes") or b"") if isinstance(image, dict) or image is None else bytes(image)
