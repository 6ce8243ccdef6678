"""Options and choices that several verbs offer.

Choices repeat types of the library whose modules `--help` must not import; a test compares them.
"""

from typing import Annotated, Literal

import typer

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
