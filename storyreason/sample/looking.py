"""Auxiliary losses that say where to look: in which picture, and at which token or place of the own text.

The loss of the answers alone finds out, but only after thousands of steps.
"""

from collections.abc import Mapping
from typing import Any

BEFORE = (1, 0)
"""Layer and head that look at the token before."""
AGAIN = (3, 0)
"""Layer and head that look at what followed when the same was read before."""
LAST_WORD = (2, 0)
"""Layer and head that look at the word before, past the signs between."""
LOOKED_UP = (3, 1)
"""Layer and head that look at the word that followed the same words, past the signs between: in `<p K3>Tom`, from `3` at the
` Tom` of `| K3 | Tom |`. With the loss of the answers alone 5 % of such names were right after 1,550 steps; with this head, 100 %
at 100 tokens and 78 % at 400 after 100 steps of short texts."""
PLACE = (1, 1)
"""Layer and head that look at the number of the place that a text tells of, as in `# Room 3` or `<room 3>`."""
THERE = (3, 2)
"""Layer and head that look at what followed the same word where the same place was told of before: in `<room 3> <p K`, at the
numbers after `K` in the rows under `# Room 3`. A head that was shown all that is written there found it (97 % of its attention
after 550 steps), but keys got no better (75 % right); with this one 91 % were right after 200 steps more."""
LONGEST = 8
"""Tokens: among places that were read before, those count with which most of the last tokens agree, up to so many."""


def pointing_loss(pointer: Any, hidden: Any, pictures: Any) -> Any:
    """The cross-entropy of the probe's guess, from a layer's hidden states, which picture a token belongs to or is about."""
    import torch

    asked = pictures != -100
    seen = torch.nn.functional.layer_norm(hidden[asked].float(), hidden.shape[-1:])
    return torch.nn.functional.cross_entropy(pointer(seen), pictures[asked])


def words_of(tokenizer: Any) -> Any:
    """The word of each token, from 1 [vocabulary]: ` Leo` and `>Leo` have the same. 0 for signs alone and special tokens."""
    import torch

    special, known = set(tokenizer.all_special_ids), dict[str, int]()
    tokens = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    bare = ["".join(filter(str.isalnum, token)).casefold() for token in tokens]
    return torch.tensor(
        [
            0 if index in special or not word else known.setdefault(word, len(known) + 1)
            for index, word in enumerate(bare)
        ]
    )


def looking_loss(model: Any, hidden: Any, batch: Mapping[str, Any], words: Any, places: Any) -> Any:
    """How little six heads attend to where they should: to the token before, and to the token that comes next, where it
    followed the same tokens before; the same with words; and to the place that a token is about, and what was said of it.

    `hidden` are the hidden states of all layers. The batch has texts, padded at the right, and no pictures. `words` are
    `words_of` the tokenizer, `places` [texts, tokens] is the token with the number of the place that each is about, or -100.
    """
    ids, mask = batch["input_ids"], batch["attention_mask"]
    return (
        _among_tokens(model, hidden, ids, mask)
        + _among_words(model, hidden, words[ids] * mask)
        + _among_places(model, hidden, ids, words[ids] * mask, places)
    )


def _among_places(model: Any, hidden: Any, ids: Any, words: Any, places: Any) -> Any:
    import torch

    of_a_place = places != -100
    if not of_a_place.any():
        return 0.0
    number = attention(model, hidden, *PLACE).gather(2, places.clamp(0)[:, :, None])[of_a_place]
    wanted = same_place(ids, words, places)
    there = attention(model, hidden, *THERE).masked_fill(~wanted, -torch.inf)[wanted.any(2)].logsumexp(1)
    return -number.mean() - (there.mean() if len(there) else 0.0)


def same_place(ids: Any, words: Any, places: Any) -> Any:
    """Whether token j is worth a look from token t [texts, t, j]: it follows the word that t is, and both are about the same
    place, t under a later heading with its number. `words` [texts, tokens] are 0 where there is none."""
    import torch

    of_a_place = places != -100
    number = ids.gather(1, places.clamp(0))
    same = (number[:, :, None] == number[:, None, :]) & of_a_place[:, :, None] & of_a_place[:, None, :]
    before = torch.nn.functional.pad(words[:, :-1], (1, 0))
    follows = (words[:, :, None] == before[:, None, :]) & (words != 0)[:, :, None]
    return same & follows & (places[:, :, None] > places[:, None, :])


def _among_words(model: Any, hidden: Any, words: Any) -> Any:
    """`words` [texts, tokens] are 0 where there is none."""
    import torch

    back, found = attention(model, hidden, *LAST_WORD), attention(model, hidden, *LOOKED_UP)
    before, again = [], []
    for row, text in enumerate(words):
        at, wanted = followed_words(text)
        before.append(back[row, at[1:], at[:-1]])
        looks = found[row, at[1:] - 1][:, at].masked_fill(~wanted, -torch.inf)
        again.append(looks[wanted.any(1)].logsumexp(1))
    return -torch.cat(before).mean() - (torch.cat(again).mean() if any(map(len, again)) else 0.0)


def followed_words(text: Any) -> tuple[Any, Any]:
    """Where the words of a text [tokens] are [words], and whether each is worth a look from just before the next one
    [words - 1, words]: it is the same, and the words before it are too. `text` is 0 where there is no word."""
    import torch

    at = text.nonzero().squeeze(1)
    return at, followed(text[at][None], torch.ones_like(at, dtype=torch.bool)[None])[0, :-1]


def _among_tokens(model: Any, hidden: Any, ids: Any, mask: Any) -> Any:
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
