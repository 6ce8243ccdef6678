"""Where the folder of a version is on this machine: where it was registered, or in `runs/models/`, fetched from the store.

Who loads a version says so with `hold`, and so does `fetch`: until that process ends, nothing here removes the version.
"""

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from storyreason import adapters, runs
from storyreason.errors import RegistryError
from storyreason.serving import state as gateway
from tasks import artifacts, bases, settings
from tasks.artifacts import Say, Stored

T = TypeVar("T")
USED = ".used"
"""A file beside a version's model folder. Its time is when the version was used last; who uses it now holds a lock on it."""
GONE = ".gone-"
"""How the name of a folder begins that is being removed, or whose removal was interrupted."""
HELD: dict[Path, int] = {}
"""The locks that this process holds until it ends: it may load a version for as long as it runs."""


def place(folder: str, identity: str) -> Path:
    """The model folder of a version. `folder` is where it was registered, relative to the runs (absolute in older versions)."""
    made = runs.root() / folder
    fetched = _fetched() / identity / "model"
    return made if (made / "config.json").is_file() or not fetched.exists() else fetched


def own(folder: Path) -> dict[str, Path]:
    """The files of a version without its base, by the names that they have in the store."""
    beside = folder.with_name("training_stories.json")
    return {f"model/{path.name}": path for path in folder.iterdir() if path.is_file()} | {beside.name: beside}


def base(folder: Path) -> dict[str, Path]:
    """The files of the base that an adapter goes over; empty for other versions."""
    found = folder / "base"
    return {path.name: path for path in found.iterdir()} if found.is_dir() else {}


def files(folder: Path, stored: Stored | None, base_stored: Stored | None) -> Mapping[str, Path | str]:
    """The files of a version as they are now, with those of its base: the path of each here, or else its MD5 in the store.

    Empty if it is neither here nor there. Raises RegistryError when the store cannot be read.
    """
    if (folder / "config.json").is_file():
        return {**own(folder), **_in_model(base(folder))}
    if stored is None:
        return {}
    return {**artifacts.names(stored), **_in_model(artifacts.names(base_stored) if base_stored else {})}


def _in_model(base: Mapping[str, T]) -> dict[str, T]:
    return {f"model/base/{name}": found for name, found in base.items()}


def is_fetched(folder: str) -> bool:
    """Whether a version's model folder was fetched here; otherwise it was registered here."""
    return Path(folder).parent.parent == _fetched()


def hold(folder: str) -> bool:
    """Keep a version's model folder until this process ends. False if it is not here, or is just being removed."""
    used = Path(folder).with_name(USED)
    if not Path(folder).is_dir():
        return False
    with contextlib.suppress(OSError):  # a folder that we cannot write is one that we cannot remove
        used.touch()
        if (held := runs.use(used)) is None:
            return False
        if (before := HELD.pop(used, None)) is not None:
            os.close(before)
        HELD[used] = held
    return Path(folder).is_dir()


def is_held(folder: Path) -> bool:
    """Whether a process loads, or may load, the version whose model folder is in this folder."""
    with runs.unused(folder / USED) as unused:
        return not unused


def fetch(identity: str, stored: Stored, base: Stored | None, say: Say) -> Path:
    """The model folder of a version that is fetched if it is not here. A killed fetch goes on where it was.

    The version used longest ago makes room, unless a gateway serves it or a process holds it. Raises RegistryError when the
    store cannot be read or there is no room.
    """
    whole = _fetched() / identity
    with runs.lock(_fetched(), wait=math.inf):  # fetched once: whoever comes second waits for the first
        if not hold(str(whole / "model")):
            part = _fetched() / f".{identity}.part"
            make_room(stored.bytes + (base.bytes if base else 0), part)
            artifacts.get(stored, part, say)
            if base is not None:
                _under(part / "model", base, say)
            runs.replace(whole, part)
            hold(str(whole / "model"))
    return whole / "model"


def _under(folder: Path, base: Stored, say: Say) -> None:
    """Fetch the base of an adapter, and link it there."""
    kept = bases.folder(adapters.identity(folder))
    if not kept.exists():
        part = kept.with_name(f".{kept.name}.part")
        artifacts.get(base, part, say)
        part.rename(kept)
    link = folder / "base"
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(kept, folder))


def make_room(needed: int, keep: Path) -> None:
    """Remove fetched versions until `needed` bytes more are within STORYREASON_CACHE_GB; what is in `keep` counts as needed."""
    most = int(settings.read().cache_gb * 1e9)
    served = {Path(one.folder).parent for one in map(gateway.served, gateway.names()) if one}
    there = {path: runs.size(path) for path in _entries() if path != keep}
    total = sum(there.values()) + sum(map(runs.size, bases.all()))
    for path in sorted(there, key=_last_used):
        if total + needed <= most:
            return
        if path not in served and remove(path):
            total -= there[path]
            for base in bases.unreferenced():
                total -= runs.size(base)
                remove(base)
    if total + needed > most:
        raise RegistryError(
            f"The version needs {needed / 1e9:.1f} GB, and of the {most / 1e9:.1f} GB for versions from other machines "
            f"{total / 1e9:.1f} are in use: raise STORYREASON_CACHE_GB, serve less here, or wait for what loads a version."
        )


def remove(folder: Path) -> bool:
    """Remove a folder, which is renamed first: it is either whole or gone. False, and it stays, if a process holds it."""
    gone = folder
    if not folder.name.startswith(GONE):
        gone = folder.with_name(f"{GONE}{folder.name}")
        with runs.unused(folder / USED) as unused:
            if not unused:
                return False
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
    with contextlib.suppress(FileNotFoundError):  # whoever began to remove it goes on
        shutil.rmtree(gone)
    return True


def _fetched() -> Path:
    return runs.root() / "models"


def _entries() -> Iterator[Path]:
    return (path for path in _fetched().glob("*") if path.is_dir())


def _last_used(folder: Path) -> float:
    used = folder / USED
    return used.stat().st_mtime if used.exists() else 0.0  # what a killed fetch of another version left goes first
