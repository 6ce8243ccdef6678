"""Packed rows have the gradients of single stories, in every mode, up to rounding; without isolation they do not."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from storyreason import chat, dataset, model
from storyreason.training import Job, TrainingConfig, packing, setup
from storyreason.training.examples import StoryDataset, collate
from storyreason.training.trainer import token_losses

Mode = Literal["lora", "full", "language"]


@pytest.fixture(scope="module")
def inputs(tiny_base: Path, tiny_examples: list[dataset.Example]) -> list[chat.Inputs]:
    """Three stories of five frames each, of three lengths."""
    encoder = chat.Encoder(model.load_processor(str(tiny_base)), images_first=False)
    stories = StoryDataset(tiny_examples, range(3), encoder, TrainingConfig(loss="all"))
    chosen = [stories[epoch, index] for epoch, index in ((0, 0), (3, 1), (5, 2))]
    assert len({len(one.input_ids) for one in chosen}) == 3
    return chosen


@pytest.fixture
def trained(tiny_base: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The base as a training in this mode loads it, ready for packed rows, without dropout."""
    mode, dtype = request.param
    config = TrainingConfig(mode=mode, rank=4, dtype="float32", recompute="none", pack_tokens=8192)
    job = Job(base=str(tiny_base), data=tmp_path, work=tmp_path, training=config)
    net = setup.load_model(job, cuda=False).to(dtype).eval()
    if mode == "lora":  # adapters start at zero, where half of them have no gradient
        for name, parameter in net.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    yield net


def gradient(net: Any, rows: Sequence[dict[str, Any]]) -> torch.Tensor:
    """The gradient of the sum of all token losses with respect to all trained weights, as one vector."""
    net.zero_grad()
    for row in rows:
        token_losses(net, {k: v for k, v in row.items() if k != "labels"}, row["labels"]).backward()
    found = [p.grad.flatten() for p in net.parameters() if p.requires_grad and p.grad is not None]
    return torch.cat(found).double()


def alone(net: Any, inputs: Sequence[chat.Inputs]) -> torch.Tensor:
    """One story at a time, with positions and attention from transformers."""
    base_model = net.get_base_model() if hasattr(net, "get_base_model") else net
    base_model.set_attn_implementation("sdpa")
    found = gradient(net, [collate([one], pad=0) for one in inputs])
    base_model.set_attn_implementation({"text_config": packing.ATTENTION})
    return found


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


MODES: list[Mode] = ["lora", "full", "language"]
EXACT = [(mode, dtype) for mode in MODES for dtype in (torch.float32, torch.float64)]


@pytest.mark.parametrize("trained", EXACT, indirect=True, ids=[f"{mode}-{str(dtype)[6:]}" for mode, dtype in EXACT])
def test_a_row_of_several_stories_has_the_gradient_of_single_ones(trained: Any, inputs: list[chat.Inputs]) -> None:
    double = next(p for p in trained.parameters() if p.requires_grad).dtype == torch.float64
    wanted = alone(trained, inputs)
    assert float(wanted.norm()) > 1
    row = packing.join(inputs, packing.positions_of(trained))
    assert row["input_ids"].shape == (1, sum(len(one.input_ids) for one in inputs))
    assert distance(gradient(trained, [row]), wanted) < (1e-9 if double else 1e-4)


@pytest.mark.parametrize("trained", [("full", torch.float64)], indirect=True)
def test_without_isolation_the_gradient_differs(trained: Any, inputs: list[chat.Inputs]) -> None:
    wanted, positions = alone(trained, inputs), packing.positions_of(trained)
    # Given a row whose text positions do not restart, so that each story sees those before it
    crossed = packing.join(inputs, positions)
    crossed["position_ids"][0] = torch.arange(crossed["input_ids"].shape[1])
    assert distance(gradient(trained, [crossed]), wanted) > 1e-2
    # or one in which a story's first token is predicted from the story before
    leaking = packing.join(inputs, positions)
    leaking["labels"] = torch.cat([one.labels for one in inputs])[None]
    assert distance(gradient(trained, [leaking]), wanted) > 1e-4
    # or transformers' own attention, which takes three rows of positions for one story
    trained.set_attn_implementation("sdpa")
    loose = packing.join(inputs, positions)
    loose["position_ids"] = loose["position_ids"][1:]
    assert distance(gradient(trained, [loose]), wanted) > 1e-2


def test_the_examples_of_a_row_are_separated_by_their_positions() -> None:
    assert packing.lengths_of(torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1]])) == [4, 3, 2]
    assert packing.lengths_of(torch.tensor([[0]])) == [1]
