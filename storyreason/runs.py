"""The one place that knows paths: `runs/`, fingerprints, work folders, locks and manifests.

A step's work folder is `runs/<step>/<fingerprint>/`. Its `manifest.json` is written last, by rename: if it exists, the step
is complete. Deleting the folder forgets the step.
"""

import ctypes
import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyreason import home
from storyreason.errors import RunError

if TYPE_CHECKING:
    from pydantic import BaseModel

MANIFEST = "manifest.json"
PLACE = ".place"
"""The file in `runs/` with the path of that folder."""


def root() -> Path:
    """The folder of all runs, absolute and created when missing. Raises RunError as `place`."""
    path = place()
    path.mkdir(parents=True, exist_ok=True)
    if not (path / PLACE).exists():
        write_text(path / PLACE, f"{path}\n")
    return path


def place() -> Path:
    """Where `root` is; creates nothing.

    Raises RunError outside a checkout when `$STORYREASON_RUNS` is not set, and when the folder was copied or moved: what is
    in it names files by their absolute paths, until `tasks.moving` has changed that.
    """
    if (made := moved()) is None:
        return _chosen()
    old, path = made
    what = "is a copy of" if old.exists() else "was moved from"
    raise RunError(
        f"{path} {what} {old}, and what is in it names files there: `storyreason status` in this checkout changes that."
    )


def moved() -> tuple[Path, Path] | None:
    """The path that the folder of all runs had when it was made, and the one it has now; None if they are the same."""
    path = _chosen()
    made_at = _made_at(path)
    if made_at is None or made_at == path or (made_at.exists() and made_at.samefile(path)):
        return None
    return made_at, path


def _chosen() -> Path:
    """`$STORYREASON_RUNS`, else `runs`; a relative path is relative to the checkout (`home.checkout`), not to the current
    folder."""
    chosen = os.environ.get("STORYREASON_RUNS")
    if not chosen and home.checkout() is None:
        raise RunError(
            f"{Path.cwd()} is not in a checkout of the project: change to one, or name it with --home or {home.VARIABLE}."
        )
    return home.folder() / (chosen or "runs")


def _made_at(path: Path) -> Path | None:
    """The path that a folder of runs had when it was made, or None for a new one."""
    try:
        return Path((path / PLACE).read_text().strip())
    except FileNotFoundError:  # new, or made before there was such a file: then its manifests tell
        for manifest in sorted([*path.glob(f"train/*/{MANIFEST}"), *path.glob(f"register/*/{MANIFEST}")]):
            content = read_manifest(manifest.parent) or {}
            if result := content.get("result") or content.get("folder"):
                return Path(result).parents[2]
        return None


def fingerprint(**parts: Any) -> str:
    """16 hex digits that name a result by what determines it: the SHA-256 of the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def deciding(settings: "BaseModel", always: Collection[str], never: Collection[str] = ()) -> dict[str, Any]:
    """The settings that take part in a fingerprint, as JSON values.

    Keys in `always` take part at any value, keys in `never` at none. Every other key takes part only when it differs
    from its default: a key that is added later leaves the fingerprint of every result made before it unchanged.
    """
    defaults = {
        name: field.get_default(call_default_factory=True) for name, field in type(settings).model_fields.items()
    }
    added = {name for name, default in defaults.items() if name not in always and getattr(settings, name) == default}
    return settings.model_dump(mode="json", exclude={*never, *added})


def work_folder(step: str, fingerprint: str) -> Path:
    """`runs/<step>/<fingerprint>/`, created when missing."""
    path = root() / step / fingerprint
    path.mkdir(parents=True, exist_ok=True)
    return path


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete step, or None when the step is incomplete or a file it names is missing."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):  # damaged: bad JSON, or no UTF-8
        return None
    if not all((folder / name).exists() for name in manifest.get("files", [])):
        return None
    return manifest


def write_manifest(folder: Path, /, files: tuple[str, ...] = (), **content: Any) -> dict[str, Any]:
    """Declare a step complete. The manifest counts only while all `files` (paths in the folder) exist."""
    manifest = {"files": list(files), **content}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False, default=str) + "\n")
    return manifest


def replace(folder: Path, new: Path) -> None:
    """Replace `folder` by the folder `new`, which is gone afterwards; both are on one file system.

    Where the file system can, they are swapped in one step; otherwise there is a moment without `folder`.
    """
    if folder.exists() and _swapped(folder, new):
        shutil.rmtree(new, ignore_errors=True)
        return
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _swapped(one: Path, other: Path) -> bool:
    """Swap two folders by Linux's `renameat2`. False if the system or the file system cannot."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap is not None and swap(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: to a temporary file beside it, which is then renamed."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Like `write_text`, for bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).rename(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a failed write does not name its file
        raise


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Nothing more can be written: no space, no quota, the largest size of a file."""
FAILED = (errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE)
"""The disk itself fails, was torn away, or takes nothing any more."""


def disk_fault(error: BaseException) -> str | None:
    """What an error, or one of its causes, says about the disk: `The disk is full`. None if it says nothing about one."""
    chain = list(causes(error))
    for number in (one.errno for one in chain if isinstance(one, OSError)):
        if number in FULL:
            return "The disk is full"
        if number in FAILED:
            return f"The disk failed ({os.strerror(number)})"
    # Libraries pass the system's words on as text, SQLite and PyTorch have their own.
    said = " ".join(map(str, chain))
    if any(os.strerror(number) in said for number in FULL) or "database or disk is full" in said:
        return "The disk is full"
    if any(os.strerror(number) in said for number in FAILED) or "disk I/O error" in said:
        return "The disk failed"
    if any(words in said for words in ("inline_container.cc", "PytorchStreamWriter", "iostream error")):
        return "The disk did not take all that was written, so it is full or failing"
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, the last one first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


@contextmanager
def lock(folder: Path, wait: float = 60.0, held: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the exclusive right to write in a work folder. The lock ends with its process, even by kill -9.

    `held` is called once when another process has the lock and must be waited for. Raises RunError, which names the holder,
    when the lock is still held after `wait` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("a+") as file:
        deadline = time.monotonic() + wait
        for attempt in itertools.count():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 0:
                    held()
                if time.monotonic() >= deadline:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    raise RunError(
                        f"{folder} is being written by {holder}, still after {wait:.0f} s: wait for it to end, or end it."
                    ) from None
                time.sleep(0.2)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


def use(file: Path) -> int | None:
    """Keep what `file` lies in from being removed, until the descriptor is closed or the process ends, even by kill -9.

    None if it is not there, or somebody holds `unused` of it. Any number of processes can use the same.
    """
    try:
        opened = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(opened), file.stat()):
            return opened
    except (BlockingIOError, FileNotFoundError):  # it is being removed, or was since it was opened
        pass
    os.close(opened)
    return None


@contextmanager
def unused(file: Path) -> Iterator[bool]:
    """Whether no process has said by `use` that it needs what `file` lies in; if so, none can until the block ends."""
    try:
        opened = file.open()
    except FileNotFoundError:  # nobody has used it yet
        yield True
        return
    with opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def size(folder: Path) -> int:
    """The bytes of the files in a folder, each once however many links it has there."""
    seen: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found = (Path(place) / name).lstat()
            except FileNotFoundError:  # a running job removed it
                continue
            seen[found.st_dev, found.st_ino] = found.st_size
    return sum(seen.values())
