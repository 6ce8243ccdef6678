"""Where the folder of a version is on this machine: where it was registered, or in `runs/models/`, fetched from the store."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from storyreason import adapters, runs
from storyreason.errors import RegistryError
from storyreason.serving import state as gateway
from tasks import artifacts, bases, settings
from tasks.artifacts import Say, Stored

USED = ".used"
"""A file in the folder of a fetched version. Its time is when the version was used last."""


def place(folder: str, identity: str) -> Path:
    """The model folder of a version. `folder` is where it was registered, relative to the runs (absolute in older versions)."""
    made = runs.root() / folder
    fetched = _fetched() / identity / "model"
    return made if (made / "config.json").is_file() or not fetched.exists() else fetched


def touch(folder: str) -> bool:
    """Note that a version is used now; False if it was registered here and not fetched."""
    used = Path(folder).with_name(USED)
    if used.parent.parent != _fetched():
        return False
    used.touch()
    return True


def fetch(identity: str, stored: Stored, base: Stored | None, say: Say) -> Path:
    """The model folder of a version that is fetched if it is not here. A killed fetch goes on where it was.

    The version used longest ago makes room, unless a gateway serves it. Raises RegistryError when the store cannot be read or
    there is no room.
    """
    whole = _fetched() / identity
    with runs.lock(_fetched(), wait=math.inf):  # fetched once: whoever comes second waits for the first
        if not whole.exists():
            part = _fetched() / f".{identity}.part"
            make_room(stored.bytes + (base.bytes if base else 0), part)
            artifacts.get(stored, part, say)
            if base is not None:
                _under(part / "model", base, say)
            part.rename(whole)
        (whole / USED).touch()
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
        if path not in served:
            remove(path)
            total -= there[path]
            for base in bases.unreferenced():
                total -= runs.size(base)
                remove(base)
    if total + needed > most:
        raise RegistryError(
            f"The version needs {needed / 1e9:.1f} GB, and of the {most / 1e9:.1f} GB for versions from other machines "
            f"{total / 1e9:.1f} are in use: raise STORYREASON_CACHE_GB, or serve less here."
        )


def remove(folder: Path) -> None:
    """Remove a folder, which is renamed first: it is either whole or gone."""
    gone = folder.with_name(f".gone-{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def _fetched() -> Path:
    return runs.root() / "models"


def _entries() -> Iterator[Path]:
    return (path for path in _fetched().glob("*") if path.is_dir())


def _last_used(folder: Path) -> float:
    used = folder / USED
    return used.stat().st_mtime if used.exists() else 0.0  # what a killed fetch of another version left goes first
