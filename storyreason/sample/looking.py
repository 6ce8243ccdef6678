"""Auxiliary losses that say where to look: in which picture, and at which token of the own text.

The loss of the answers alone finds out, but only after thousands of steps.
"""

from typing import Any

BEFORE = (1, 0)
"""Layer and head that look at the token before."""
AGAIN = (3, 0)
"""Layer and head that look at what followed when the same was read before."""
LONGEST = 8
"""Tokens: among places that were read before, those count with which most of the last tokens agree, up to so many."""


def pointing_loss(pointer: Any, hidden: Any, pictures: Any) -> Any:
    """The cross-entropy of the probe's guess, from a layer's hidden states, which picture a token belongs to or is about."""
    import torch

    asked = pictures != -100
    seen = torch.nn.functional.layer_norm(hidden[asked].float(), hidden.shape[-1:])
    return torch.nn.functional.cross_entropy(pointer(seen), pictures[asked])


def looking_loss(model: Any, hidden: Any, ids: Any, mask: Any) -> Any:
    """How little two heads attend to where they should: one to the token before, one to the token that comes next, where
    it followed the same tokens before.

    `hidden` are the hidden states of all layers, `ids` and `mask` [texts, tokens] are padded at the right. There are no
    pictures.
    """
    import torch

    here = mask.bool()
    before = attention(model, hidden, *BEFORE).diagonal(-1, 1, 2)[here[:, 1:]]
    wanted = followed(ids, here)
    again = attention(model, hidden, *AGAIN).masked_fill(~wanted, -torch.inf)[wanted.any(2)].logsumexp(1)
    return -before.mean() - (again.mean() if len(again) else 0.0)


def attention(model: Any, hidden: Any, layer: int, head: int) -> Any:
    """The logarithms of a head's attention [texts, tokens, tokens], for texts without pictures."""
    import torch
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

    language = model.model.language_model
    block = language.layers[layer]
    size = block.self_attn.head_dim
    rows = slice(head * size, (head + 1) * size)
    read = block.input_layernorm(hidden[layer].float())
    query, key = (
        torch.nn.functional.linear(read, part.weight[rows], part.bias[rows])[:, None]
        for part in (block.self_attn.q_proj, block.self_attn.k_proj)
    )
    tokens = read.shape[1]
    places = torch.arange(tokens, device=read.device).expand(3, len(read), tokens)
    query, key = (each[:, 0] for each in apply_rotary_pos_emb(query, key, *language.rotary_emb(read, places)))
    scores = query @ key.transpose(1, 2) * size**-0.5
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=read.device).triu(1)
    return scores.masked_fill(later, -torch.inf).log_softmax(2)


def followed(ids: Any, here: Any) -> Any:
    """Whether token j is worth a look from token t [texts, t, j]: it is the token after t, and t stands before it too.

    Among the places that are, only those with the longest agreement before them.
    """
    import torch

    tokens = ids.shape[1]
    same = (ids[:, :, None] == ids[:, None, :]) & here[:, :, None] & here[:, None, :]
    same &= torch.ones(tokens, tokens, dtype=torch.bool, device=ids.device).tril(-1)
    agree, run = torch.zeros_like(same, dtype=torch.int8), same
    for _ in range(LONGEST):
        agree += run
        # One token further back at both places.
        run = same & torch.nn.functional.pad(run, (1, 0, 1, 0))[:, :-1, :-1]
    # `agree[t, i]` counts up to t and i; the next tokens must be the same, and the look goes to i + 1.
    next_same = torch.nn.functional.pad(same[:, 1:, 1:], (0, 1, 0, 1))
    agree = torch.nn.functional.pad((agree * next_same)[:, :, :-1], (1, 0))
    return (agree > 0) & (agree == agree.amax(2, keepdim=True))
