from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from storyreason import chat, dataset, model
from storyreason.training import Job, TrainingConfig, setup
from storyreason.training.examples import StoryDataset, collate
from storyreason.training.measure import Cost, Utilization, peak_operations
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


def test_a_peak_that_was_measured_on_a_busy_device_is_measured_again() -> None:
    # Given a device of 1,000 operations per second, of which others used 900 at the start
    measures = iter([100, 1000, 1000])
    share = Utilization(lambda: next(measures))
    assert share.of(120, seconds=2) == 0.6
    # When a step does more than was measured, then it is no share above 1, and the steps after it are right as well
    assert [share.of(400, seconds=2), share.of(1000, seconds=2)] == [0.2, 0.5]
    # and what no measure reaches counts as the peak
    assert [share.of(3000, seconds=2), share.of(750, seconds=2)] == [1.0, 0.25]
