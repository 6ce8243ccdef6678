"""Several whole examples in one row, without padding; each sees itself only.

    tokens      a a a a b b b c c        three examples in one row
    positions   0 1 2 3 0 1 2 0 1        the text row of the position IDs restarts with each
    labels      . . A A . . B . C        the first token of an example is never predicted, least of all from another's

Attention goes over the examples one by one (FlashAttention does so by itself, from the same positions), so it costs what
the examples cost and needs no mask. So do layers that carry something from token to token, as in Qwen3.5 and LFM2.5-VL.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from storyreason import architecture, chat

if TYPE_CHECKING:
    import torch

ATTENTION = "storyreason_documents"
"""The name under which transformers knows `attend`."""
Positions = Callable[[chat.Inputs], "torch.Tensor"]
"""The positions of an example's tokens: the text's [1, tokens], or [4, 1, tokens], the text's and the three of M-RoPE."""


def positions_of(base: Any) -> Positions:
    """The base's own numbering of tokens."""
    import torch

    def text(one: chat.Inputs) -> "torch.Tensor":
        return torch.arange(len(one.input_ids))[None]

    def in_three(one: chat.Inputs) -> "torch.Tensor":
        mrope, _ = number(one.input_ids[None], one.mm_token_type_ids[None], image_grid_thw=one.image_grid_thw)
        return torch.cat([text(one)[None], mrope])

    if architecture.of(base.config).rows == 1:
        return text
    number = architecture.inside(base).get_rope_index
    return in_three


def isolate(base: Any) -> None:
    """Make the language model of a base see nothing but each example of a row. FlashAttention already attends so."""
    from transformers import AttentionInterface
    from transformers.modeling_layers import GradientCheckpointingLayer
    from transformers.utils.generic import is_flash_attention_requested

    if recurrent := architecture.of(base.config).recurrent:
        for layer in base.modules():
            if isinstance(layer, GradientCheckpointingLayer) and hasattr(layer, recurrent):
                inner, lengths = getattr(layer, recurrent), list[int]()
                layer.register_forward_pre_hook(partial(_note_lengths, lengths), with_kwargs=True)
                inner.forward = partial(_one_by_one, inner.forward, lengths)
    if is_flash_attention_requested(base.config):
        return
    AttentionInterface.register(ATTENTION, attend)
    base.set_attn_implementation({"text_config": ATTENTION})


def join(inputs: Sequence[chat.Inputs], positions: Positions) -> "dict[str, torch.Tensor]":
    """One row [1, tokens] of several examples, with their positions as the base numbers them."""
    import torch

    labels = torch.cat([one.labels for one in inputs])
    starts = torch.tensor([0, *accumulate(len(one.labels) for one in inputs[:-1])])
    labels[starts] = chat.IGNORED  # never predicted from the example before
    return {
        "input_ids": torch.cat([one.input_ids for one in inputs])[None],
        "labels": labels[None],
        "mm_token_type_ids": torch.cat([one.mm_token_type_ids for one in inputs])[None],
        "position_ids": torch.cat([positions(one) for one in inputs], dim=-1),
        "pixel_values": torch.cat([one.pixel_values for one in inputs]),
        "image_grid_thw": torch.cat([one.image_grid_thw for one in inputs]),
    }


def attend(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    position_ids: "torch.Tensor | None" = None,
    **others: Any,
) -> "tuple[torch.Tensor, None]":
    """Causal attention within each example of a row: query, key and value are [1, heads, tokens, head size].

    The interface is transformers'; `position_ids` [1, tokens] is the text row, which restarts with each example.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    lengths = lengths_of(position_ids)
    parts = [tensor.split(lengths, dim=2) for tensor in (query, key, value)]
    attended = [
        sdpa_attention_forward(module, one_query, one_key, one_value, None, **others)[0]
        for one_query, one_key, one_value in zip(*parts, strict=True)
    ]
    return torch.cat(attended, dim=1), None


def _note_lengths(lengths: list[int], layer: Any, arguments: Any, others: dict[str, Any]) -> None:
    """A decoder layer gets the positions and hands them to its attention only: its recurrent part finds the lengths here."""
    lengths[:] = lengths_of(others["position_ids"])


def _one_by_one(
    forward: Callable[..., "torch.Tensor"],
    lengths: list[int],
    hidden_states: "torch.Tensor",
    attention_mask: None = None,
    **others: Any,
) -> "torch.Tensor":
    """A recurrent layer's `forward` on each example of a row [1, tokens, size], as if it stood alone.

    Kernels that take the ends of the examples would do it in one pass; transformers' own code for the CPU ignores them.
    """
    import torch

    return torch.cat([forward(hidden_states=one, **others) for one in hidden_states.split(lengths, dim=1)], dim=1)


def lengths_of(position_ids: "torch.Tensor | None") -> list[int]:
    """The tokens of each example of a row, from its text positions [1, tokens].

    >>> import torch
    >>> lengths_of(torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1]]))
    [4, 3, 2]
    """
    import torch

    assert position_ids is not None and len(position_ids) == 1, "rows are packed one at a time, with their positions"
    if (known := _known().get(position_ids)) is None:
        starts = (position_ids[0] == 0).nonzero().squeeze(1)
        ends = torch.cat([starts[1:], starts.new_tensor([position_ids.shape[1]])])
        known = _known()[position_ids] = (ends - starts).tolist()
    return list(known)


@cache
def _known() -> Any:
    """Lengths by the tensor of positions, read once for all layers: on a GPU, reading them makes the CPU wait."""
    from torch.utils.weak import WeakTensorKeyDictionary

    return WeakTensorKeyDictionary()
