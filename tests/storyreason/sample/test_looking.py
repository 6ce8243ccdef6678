"""Where the auxiliary losses say to look."""

import random

import pytest
import torch

from storyreason.sample import recall
from storyreason.sample.base import batch_of, new_model, vocabulary_texts
from storyreason.sample.lessons import Lesson
from storyreason.sample.looking import (
    AGAIN,
    BEFORE,
    LAST_WORD,
    LOOKED_UP,
    PLACE,
    THERE,
    attention,
    followed,
    followed_words,
    looking_loss,
    same_place,
    words_of,
)
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


def test_a_name_is_looked_up_past_the_signs_around_it() -> None:
    tokenizer = make_processor(vocabulary_texts()).tokenizer
    ids = torch.tensor(tokenizer("| K3 | Tom |\n| K4 | Ida |\n<p K4>Ida</p> <p K3>Tom</p><|im_end|>").input_ids)

    at, wanted = followed_words(words_of(tokenizer)[ids])

    def text(*places: int) -> str:
        return str(tokenizer.decode(ids[list(places)]))

    looks = [(text(int(at[t + 1]) - 1), text(int(at[t + 1])), text(int(at[to]))) for t, to in wanted.nonzero().tolist()]
    assert ("4", ">Ida", " Ida") in looks
    assert ("3", ">Tom", " Tom") in looks
    assert all(of.strip("> ") == to.strip("> ") for _, of, to in looks)
    assert text(int(at[-1])) == "p"  # what ends a message is no word


def test_the_look_goes_to_what_followed_the_same_word_at_the_same_place() -> None:
    #                   places 1 and 2, then 2 again and 1 again; what comes before is about none
    ids = torch.tensor([[9, 1, 4, 5, 2, 4, 6, 2, 4, 6, 1, 4, 8]])
    places = torch.tensor([[-100, 1, 1, 1, 4, 4, 4, 7, 7, 7, 10, 10, 10]])

    wanted = same_place(ids, ids * (ids != 2), places)

    # 4 -> 6 under the second heading, 4 -> 5 under the first; what follows the number 1 itself, but not 2, which is no word here.
    assert wanted[0].nonzero().tolist() == [[8, 6], [10, 2], [11, 3]]


@pytest.mark.parametrize("where", [BEFORE, AGAIN, LAST_WORD, LOOKED_UP, PLACE, THERE])
def test_the_attention_is_the_models_own(where: tuple[int, int]) -> None:
    luck = random.Random(1)
    processor = make_processor(vocabulary_texts())
    model = new_model(processor)
    batch = batch_of([recall.a_text(40, luck), Lesson((), recall._visits(300, luck))], processor)
    places = batch.pop("about")
    del batch["labels"]
    model.set_attn_implementation("eager")
    layer, head = where

    with torch.inference_mode():
        output = model(**batch, output_attentions=True, output_hidden_states=True)
        ours = attention(model, output.hidden_states, layer, head).exp()

    read = batch["attention_mask"].bool()
    torch.testing.assert_close(ours[read], output.attentions[layer][:, head][read], atol=1e-4, rtol=1e-3)
    loss = looking_loss(model, output.hidden_states, batch, words_of(processor.tokenizer), places)
    without = looking_loss(model, output.hidden_states, batch, words_of(processor.tokenizer), places.fill_(-100))
    assert loss > without + 2.0 > 4.0
