"""The bases that adapters go over, in `runs/bases/`, named by their content: each once, however many versions share it."""

import os
import shutil
from pathlib import Path

from storyreason import adapters, model, runs
from storyreason.errors import ModelError
from tasks.data import Base


def keep(base: Base) -> str:
    """The folder of a base that stays as it is, by hard links where the file system has them; a name on the Hub as it is."""
    if not Path(base.folder).is_dir():
        return base.folder
    kept = runs.root() / "bases" / base.identity
    if not kept.exists():
        temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
        temporary.mkdir(parents=True)
        for file in Path(base.folder).iterdir():
            if file.suffix in model.CONTENT and not file.name.startswith("."):
                _link(file, temporary / file.name)
        runs.replace(kept, temporary)
    return str(kept)


def check(folder: str) -> None:
    """Raises ModelError when the model folder is an adapter and its base is gone, or is another."""
    adapter = adapters.of(folder)
    if adapter is None:
        return
    found = model.load_identity(adapter.base, adapter.revision)
    if found != adapter.identity:
        raise ModelError(
            f"The adapter {folder} was trained over a base with the content {adapter.identity}, and {adapter.base} has {found}: "
            "restore that base, or train again."
        )


def _link(file: Path, to: Path) -> None:
    try:
        os.link(file.resolve(), to)
    except OSError:  # another file system, or one without links
        shutil.copy(file, to)
