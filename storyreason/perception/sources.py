"""Films on disk: videos, and folders or archives of pictures.

A folder is one film if it has pictures, or else a folder of films: each video, archive and folder in it is one. In a film's
folder or archive, pictures in subfolders are in scenes: each subfolder is one. A data set in GroundCap's layout, in a folder or
on the Hub, is a folder of films, too.
"""

import hashlib
import lzma
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

import numpy as np

from storyreason import pictures
from storyreason.errors import DataError
from storyreason.perception import groundcap
from storyreason.perception.film import sort_key
from storyreason.perception.video import Seen, Video, shrunk

VIDEOS = (".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
PICTURES = (".avif", ".bmp", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, UnicodeDecodeError,
            RuntimeError)  # fmt: skip
"""What reading an archive raises that is damaged or has a password; RuntimeError is what `zipfile` has for that."""


class Source(Protocol):
    """A film, opened. Its frames are read once."""

    path: Path
    count: int
    """Frames, as far as that is known before they are read."""
    rate: float | None
    """Frames a second of a video; None for pictures."""
    problem: str | None
    """What of it could not be read, as a sentence, once it is read."""

    def frames(self) -> Iterator[Seen]: ...


def find(paths: Sequence[Path]) -> dict[str, Path]:
    """The films at some paths, by their names, sorted. Raises DataError for two of one name, and if there is none."""
    found: dict[str, Path] = {}
    for path in paths:
        for one in _films(path):
            name = _name(one)
            if name in found and found[name] != one:
                raise DataError(f"{found[name]} and {one} are two films of one name, {name!r}: rename one of them.")
            found[name] = one
    if not found:
        raise DataError(
            f"No film is in {', '.join(map(str, paths))}: name videos ({', '.join(VIDEOS)}), or folders or archives "
            f"({', '.join(ARCHIVES)}) of pictures ({', '.join(PICTURES)})."
        )
    return {name: found[name] for name in sorted(found, key=sort_key)}


def open_film(path: Path) -> Source:
    """A film that `find` has found. Raises DataError if it cannot be read, or has no pictures."""
    return Video(path) if path.is_file() and not _is(path, ARCHIVES) else Pictures(path)


def fingerprint(path: Path) -> str:
    """The SHA-256 of a film's bytes; of a folder, of its pictures' names and bytes. Raises DataError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        return _digested(path, digest).hexdigest()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}): copy it again, or leave it out."
        ) from error


def _digested(path: Path, digest: "hashlib._Hash") -> "hashlib._Hash":
    for file in [path] if path.is_file() else [path / name for name in _pictures(path)]:
        if path.is_dir():
            digest.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest


class Pictures:
    """A folder or an archive of pictures. Raises DataError if it cannot be read, or has none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rate: float | None = None
        self.problem: str | None = None
        with _opened(path) as files:
            self._names = files.names()
        if not self._names:
            raise DataError(f"{path} has no pictures ({', '.join(PICTURES)}): name another folder, or leave it out.")
        self.count = len(self._names)

    def frames(self) -> Iterator[Seen]:
        """Its pictures by name, numbers as numbers. One that does not decode is left out and named in `problem`."""
        folders = {str(PurePosixPath(name).parent) for name in self._names}
        scenes = {folder: number for number, folder in enumerate(sorted(folders, key=sort_key))}
        bad: list[str] = []
        with _opened(self.path) as files:
            for number, name in enumerate(self._names):
                try:
                    encoded = pictures.canonical(files.read(name), whole=False)
                    pixels = np.asarray(pictures.rgb(encoded))
                except pictures.PictureError as error:
                    bad.append(f"{name} ({error})")
                    continue
                scene = scenes[str(PurePosixPath(name).parent)] if len(scenes) > 1 else None
                yield Seen(number, None, name, shrunk(pixels), _Encoded(encoded), scene, encoded)
        if bad:
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            self.problem = (
                f"{self.path}: {len(bad)} pictures do not decode and are left out: {', '.join(bad[:3])}{more}."
            )
        if len(bad) == self.count:
            raise DataError(f"{self.path} has no picture that decodes, such as {bad[0]}: save them as JPEG or PNG.")


@dataclass(frozen=True)
class _Encoded:
    """Decoded again when it is wanted: all pictures of a subfolder may wait for its last one."""

    encoded: bytes

    def __call__(self) -> np.ndarray:
        return np.asarray(pictures.rgb(self.encoded))


def _films(path: Path) -> list[Path]:
    if groundcap.names_one(path):
        path = groundcap.fetched(str(path))
    if path.is_dir() and groundcap.files(path):
        path = groundcap.films(path)
    if path.is_dir():
        entries = sorted(one for one in path.iterdir() if not one.name.startswith("."))
        if any(_is(one, PICTURES) for one in entries):
            return [path]
        return [one for one in entries if _is(one, (*VIDEOS, *ARCHIVES)) or (one.is_dir() and _pictures(one))]
    if not path.exists():
        raise DataError(
            f"There is no {path}: name videos, folders or archives of pictures, or a data set like GroundCap."
        )
    return [path]


def _name(path: Path) -> str:
    for end in sorted((*ARCHIVES, *VIDEOS), key=len, reverse=True) if path.is_file() else ():
        if path.name.lower().endswith(end):
            return path.name[: -len(end)]
    named_itself = path.name not in ("", "..")  # a link has a name of its own
    return path.name if named_itself else path.resolve().name


def _is(path: Path, ends: Sequence[str]) -> bool:
    return path.is_file() and path.name.lower().endswith(tuple(ends))


def _pictures(folder: Path) -> list[str]:
    """The pictures in a folder, as paths in it, sorted."""
    names = (str(one.relative_to(folder)) for one in folder.rglob("*") if _is(one, PICTURES))
    return sorted(filter(_shown, names), key=sort_key)


def _shown(name: str) -> bool:
    """Neither hidden nor what macOS puts into archives."""
    parts = PurePosixPath(name).parts
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


class _Files:
    """The pictures of a folder or an archive, by name."""

    def __init__(self, path: Path, archive: zipfile.ZipFile | tarfile.TarFile | None = None) -> None:
        self._path, self._archive = path, archive

    def names(self) -> list[str]:
        if self._archive is None:
            return _pictures(self._path)
        if isinstance(self._archive, zipfile.ZipFile):
            names = [one.filename for one in self._archive.infolist() if not one.is_dir()]
        else:
            names = [one.name for one in self._archive.getmembers() if one.isfile()]
        wanted = [name for name in names if name.lower().endswith(PICTURES) and _shown(name)]
        if twice := [name for name, times in Counter(wanted).items() if times > 1]:
            raise DataError(f"{self._path} has {twice[0]} twice: pack it again.")
        return sorted(wanted, key=sort_key)

    def read(self, name: str) -> bytes:
        if self._archive is None:
            return (self._path / name).read_bytes()
        if isinstance(self._archive, zipfile.ZipFile):
            return self._archive.read(name)
        stream: IO[bytes] | None = self._archive.extractfile(name)
        return stream.read() if stream else b""


@contextmanager
def _opened(path: Path) -> Iterator[_Files]:
    """Nothing of an archive is written to disk."""
    try:
        if path.is_dir():
            yield _Files(path)
        elif path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as packed:
                yield _Files(path, packed)
        else:
            with tarfile.open(path) as tape:
                yield _Files(path, tape)
    except _DAMAGED as error:
        why = " ".join(str(error).split("\n")[0].split())  # tarfile lists what each kind of compression says
        raise DataError(f"{path} cannot be read ({why}): pack or copy it again.") from error
