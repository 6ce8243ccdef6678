"""Where the auxiliary losses say to look."""

import random

import pytest
import torch

from storyreason.sample import recall
from storyreason.sample.base import batch_of, new_model, vocabulary_texts
from storyreason.sample.looking import AGAIN, BEFORE, attention, followed, looking_loss
from storyreason.sample.tokenizer import make_processor


def test_the_look_goes_to_what_followed_the_same_tokens() -> None:
    ids = torch.tensor([[5, 6, 7, 8, 5, 6, 7, 9, 1, 6, 7, 8]])

    places = followed(ids, torch.ones_like(ids).bool())

    # 5 -> 6, 5 6 -> 7; after 5 6 7 comes 9, which is new; 6 stood at two places; 6 7 -> 8 did once.
    assert places[0].nonzero().tolist() == [[4, 1], [5, 2], [9, 2], [9, 6], [10, 3]]


def test_the_longest_agreement_counts_and_padding_does_not() -> None:
    ids = torch.tensor([[1, 3, 4, 2, 3, 4, 1, 3, 4, 0, 0], [1, 2, 1, 2, 1, 2, 0, 0, 0, 0, 0]])

    places = followed(ids, ids != 0)

    assert places[0].nonzero().tolist() == [[4, 2], [6, 1], [7, 2]]
    assert places[1].nonzero().tolist() == [[2, 1], [3, 2], [4, 3]]


@pytest.mark.parametrize("where", [BEFORE, AGAIN])
def test_the_attention_is_the_models_own(where: tuple[int, int]) -> None:
    luck = random.Random(1)
    processor = make_processor(vocabulary_texts())
    model = new_model(processor)
    batch = batch_of([recall.a_text(size, luck) for size in (40, 80)], processor)
    del batch["labels"], batch["pictures"]
    model.set_attn_implementation("eager")
    layer, head = where

    with torch.inference_mode():
        output = model(**batch, output_attentions=True, output_hidden_states=True)
        ours = attention(model, output.hidden_states, layer, head).exp()

    read = batch["attention_mask"].bool()
    torch.testing.assert_close(ours[read], output.attentions[layer][:, head][read], atol=1e-5, rtol=1e-4)
    loss = looking_loss(model, output.hidden_states, batch["input_ids"], batch["attention_mask"])
    assert loss > 1.0
