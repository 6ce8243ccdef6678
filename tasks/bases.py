"""The bases that adapters go over, in `runs/bases/`, named by their content: each once, however many versions share it."""

import os
import shutil
import time
from pathlib import Path

from storyreason import adapters, model, runs
from storyreason.errors import ModelError
from tasks.data import Base


def folder(identity: str) -> Path:
    """Where the base with this content is, if it is here."""
    return runs.root() / "bases" / identity


def all() -> list[Path]:
    """The folders of all bases that are here, half-fetched ones too."""
    return [path for path in (runs.root() / "bases").glob("*") if path.is_dir()]


def unreferenced(older: float = 3600) -> list[Path]:
    """The bases that no version on this machine goes over; not those of the last hour, whose versions may be on their way."""
    links = [*runs.root().glob("register/*/model/base"), *runs.root().glob("models/*/model/base")]
    named = {link.resolve() for link in links}
    before = time.time() - older
    return [path for path in all() if path.resolve() not in named and path.stat().st_mtime < before]


def keep(base: Base) -> str:
    """The folder of a base that stays as it is, by hard links where the file system has them; a name on the Hub as it is."""
    if not Path(base.folder).is_dir():
        return base.folder
    kept = folder(base.identity)
    if not kept.exists():
        temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
        temporary.mkdir(parents=True)
        for file in Path(base.folder).iterdir():
            if file.suffix in model.CONTENT and not file.name.startswith("."):
                _link(file, temporary / file.name)
        runs.replace(kept, temporary)
    return str(kept)


def check(place: str) -> None:
    """Raises ModelError when the model folder is an adapter and its base is gone, or is another."""
    adapter = adapters.of(place)
    if adapter is None:
        return
    found = model.load_identity(adapter.base, adapter.revision)
    if found != adapter.identity:
        raise ModelError(
            f"The adapter {place} was trained over a base with the content {adapter.identity}, and {adapter.base} has {found}: "
            "restore that base, or train again."
        )


def _link(file: Path, to: Path) -> None:
    try:
        os.link(file.resolve(), to)
    except OSError:  # another file system, or one without links
        shutil.copy(file, to)
