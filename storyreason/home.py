"""The checkout that a process works for: the folder of its `.env`, its data and its `runs/`."""

import os
import sys
from pathlib import Path

from storyreason.errors import ConfigError

VARIABLE = "STORYREASON_HOME"


def checkout() -> Path | None:
    """`$STORYREASON_HOME`, else the nearest checkout at or above the current folder; absolute, or None if there is none.

    Raises ConfigError when the variable does not name a checkout.
    """
    named = os.environ.get(VARIABLE)
    if named:
        chosen = Path(named).expanduser().absolute()
        if not _is_checkout(chosen):
            raise ConfigError(
                f"{VARIABLE}={named} is not a checkout of the project: name the folder that holds its deploy/presets, "
                f"with --home or {VARIABLE}."
            )
        return chosen
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if _is_checkout(folder)), None)


def folder() -> Path:
    """The checkout, or the current folder where there is none. Raises ConfigError as `checkout`."""
    return checkout() or Path.cwd()


def enter() -> None:
    """Make the checkout the current folder: relative paths of a configuration and of DVC are relative to it."""
    os.chdir(folder())


def refuse_foreign_environment() -> None:
    """Raises ConfigError if the command is a script of an environment that was copied or moved with its folder.

    Such a script still starts the Python of the folder it was made in, and with it that folder's code.
    """
    environment = Path(sys.argv[0]).absolute().parents[1] if sys.argv[0] else Path(sys.prefix)
    if (environment / "pyvenv.cfg").is_file() and not environment.samefile(sys.prefix):
        raise ConfigError(
            f"{environment} was copied or moved, and runs the code of {Path(sys.prefix).parent}: run `make install` in "
            f"{environment.parent}, which makes the environment again."
        )


def _is_checkout(folder: Path) -> bool:
    return (folder / "deploy" / "presets").is_dir() and (folder / "storyreason" / "home.py").is_file()
