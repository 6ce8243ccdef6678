"""Options and choices that several verbs offer, and how they read their preset.

Choices repeat types of the library whose modules `--help` must not import; a test compares them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from storyreason import home

if TYPE_CHECKING:
    from storyreason.config import RunConfig

Format = Literal["table", "json"]
"""Output format of a result."""
Split = Literal["train", "test"]
"""As `dataset.SPLITS`."""
Protocol = Literal["strict", "paper"]
"""As `scoring.counting.Protocol`."""
Decoding = Literal["free", "grounded"]
"""As `generation.config.Decoding`."""
Dtype = Literal["auto", "float32", "bfloat16"]
"""As `model.Dtype`."""
Method = Literal["calibrated", "published"]
"""As `perception.identity.Method`."""
Private = Annotated[bool, typer.Option("--private", help="Create the repository as private.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be uploaded, and upload nothing.")]


def load_in_checkout(preset: str, overrides: list[str] | None) -> "tuple[str, RunConfig]":
    """The preset and its configuration, in the checkout: relative paths in it are relative to that; the preset's own is not."""
    from storyreason import config

    chosen = str(Path(preset).absolute()) if Path(preset).is_file() else preset
    home.enter()
    return chosen, config.load_here(chosen, overrides or [])


def refuse_other_contents(out: Path) -> None:
    """Raises ModelError, before any work, for a folder to be written whose replacement would lose something else than a model."""
    from storyreason.errors import ModelError

    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file()):
        raise ModelError(f"--out {out} is a file, or a folder with other contents: name a new folder.")
