"""What the Trainer starts from. Activation checkpointing changes the work and the memory, never the gradient."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from storyreason import architecture, chat, dataset, model
from storyreason.training import Job, TrainingConfig, packing, setup
from storyreason.training.config import Recompute
from storyreason.training.examples import StoryDataset
from storyreason.training.trainer import token_losses

KINDS: tuple[Recompute, ...] = ("none", "selective", "all")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    config = TrainingConfig(dtype="float32", accelerate="1gpu", liger=False)
    return Job(base="b", data=tmp_path, work=tmp_path, training=config)


def test_float32_is_kept_when_the_launcher_says_bf16(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as `accelerate launch` does with 1gpu.yaml
    assert setup.arguments(job, cuda=False).mixed_precision == "no"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_one_process_that_sees_four_gpus_uses_one(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    made = setup.arguments(job, cuda=True)
    assert made.n_gpu == 1
    assert made.train_batch_size == job.training.batch_size


@pytest.fixture(scope="module")
def inputs(tiny_base: Path, tiny_examples: list[dataset.Example]) -> list[chat.Inputs]:
    encoder = chat.Encoder(model.load_processor(str(tiny_base)), images_first=False)
    stories = StoryDataset(tiny_examples, range(2), encoder, TrainingConfig())
    return [stories[0, index] for index in range(2)]


def trained(
    base: Path, mode: Any, kind: Recompute, inputs: list[chat.Inputs], pack_tokens: int = 8192
) -> tuple[torch.Tensor, int]:
    """The gradient of a packed row as one vector, dropout on, and the operations of its two passes."""
    config = TrainingConfig(mode=mode, rank=4, dtype="float32", recompute=kind, pack_tokens=pack_tokens, liger=False)
    job = Job(base=str(base), data=base, work=base, training=config)
    net, arguments = setup.load_model(job, cuda=False).train(), setup.arguments(job, cuda=False)
    if arguments.gradient_checkpointing:  # as the Trainer does it
        net.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments.gradient_checkpointing_kwargs)
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    row = packing.join(inputs, packing.positions_of(net))
    setup.recompute_if_long(net, config, row["input_ids"].shape[1])
    torch.manual_seed(7)
    with FlopCounterMode(display=False) as counted:
        labels = row.pop("labels")
        token_losses(net, architecture.arguments(row, net.config), labels).backward()
    found = [p.grad.flatten() for p in net.parameters() if p.requires_grad and p.grad is not None]
    return torch.cat(found), counted.get_total_flops()


def test_only_rows_longer_than_the_budget_are_recomputed(tiny_base: Path, inputs: list[chat.Inputs]) -> None:
    tokens = sum(len(one.input_ids) for one in inputs)
    _, every = trained(tiny_base, "lora", "all", inputs)
    assert trained(tiny_base, "lora", "long", inputs, pack_tokens=tokens)[1] < every
    assert trained(tiny_base, "lora", "long", inputs, pack_tokens=tokens - 1)[1] == every


@pytest.mark.parametrize("mode", ["lora", "full", "language"])
def test_the_gradient_is_the_same_and_the_work_is_between(
    tiny_base: Path, mode: str, inputs: list[chat.Inputs]
) -> None:
    wanted, none = trained(tiny_base, mode, "none", inputs)
    assert float(wanted.norm()) > 0
    operations = {"none": none}
    for kind in KINDS[1:]:
        gradient, operations[kind] = trained(tiny_base, mode, kind, inputs)
        assert float((gradient - wanted).norm() / wanted.norm()) < 1e-4, kind
    assert operations["none"] < operations["selective"] < operations["all"]
