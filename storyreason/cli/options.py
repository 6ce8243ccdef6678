"""The choices that verbs offer. They repeat types of the library whose modules `--help` must not import; a test compares them."""

from typing import Literal

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
