"""The loss of a batch."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from storyreason import chat


def token_losses(model: Any, inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """The sum of the cross-entropies of all label tokens. Logits are made only where a label is."""
    targets = labels[:, 1:]
    columns = (targets != chat.IGNORED).any(dim=0).nonzero().squeeze(1)
    logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits
    return cross_entropy(
        logits.flatten(0, 1).float(), targets[:, columns].flatten(), ignore_index=chat.IGNORED, reduction="sum"
    )
