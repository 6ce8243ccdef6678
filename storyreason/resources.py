"""The YAML files that come with the library: they stand in `deploy/` of a checkout, and in the package once installed."""

from pathlib import Path
from typing import Literal


def folder(name: Literal["presets", "accelerate"]) -> Path:
    """The folder of the presets, or of the accelerate files.

    A build copies both from the checkout's `deploy/` into the package (`setup.py`); an editable install reads the checkout.
    """
    package = Path(__file__).resolve().parent
    installed = package / "deploy" / name
    return installed if installed.is_dir() else package.parent / "deploy" / name


def presets() -> list[str]:
    """The names of the presets that come with the project."""
    return sorted(path.stem for path in folder("presets").glob("*.yaml"))
