from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from storyreason import chat, dataset, model
from storyreason.training import Job, TrainingConfig, setup
from storyreason.training.examples import StoryDataset, collate
from storyreason.training.measure import Cost, peak_operations
from storyreason.training.trainer import token_losses


@pytest.mark.parametrize("mode", ["full", "language", "lora"])
def test_the_operations_of_a_story_agree_with_torchs_count(
    mode: Literal["full", "language", "lora"],
    tiny_base: Path,
    tiny_examples: list[dataset.Example],
    tmp_path: Path,
) -> None:
    # Given a story and a model as they are trained
    config = TrainingConfig(mode=mode, rank=4, dtype="float32", recompute="none")
    net: Any = setup.load_model(Job(base=str(tiny_base), data=tmp_path, work=tmp_path, training=config), cuda=False)
    encoder = chat.Encoder(model.load_processor(str(tiny_base)))
    stories = StoryDataset(tiny_examples, [0], encoder, config)
    batch = collate([stories[0, 0]], pad=0)
    labels = batch.pop("labels")
    # When torch counts all products but attention's (which it does not count on a CPU)
    with FlopCounterMode(display=False) as counter:
        token_losses(net, batch, labels).backward()
    cost = Cost(net, mode)
    image_tokens = stories.image_tokens(0)
    counted = cost.of(stories.tokens((0, 0)), stories.loss_tokens((0, 0)), image_tokens)
    attention = cost.per_pair * stories.tokens((0, 0)) ** 2
    # Then the count from the weights agrees (biases and norms make it slightly larger)
    assert counted - attention == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert attention > 0


def test_a_device_that_is_not_in_the_table_is_measured() -> None:
    assert peak_operations(torch.device("cpu"), bf16=False) > 1e8
