"""FSDP2 as accelerate prepares it, in a world of one process."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin, fsdp_utils
from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from transformers import trainer

from storyreason import model
from storyreason.training import sharding

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="FSDP2 would take the GPU")

TOKENS = torch.arange(100, 130)[None]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group of one. The functions that `by_layer` replaces are restored."""
    monkeypatch.setattr(trainer, "update_fsdp_plugin_peft", trainer.update_fsdp_plugin_peft)
    monkeypatch.setattr(fsdp_utils, "_find_final_norm", fsdp_utils._find_final_norm)
    sum_up = FSDPParam.to_accumulated_grad_if_needed
    monkeypatch.setattr(FSDPParam, "to_accumulated_grad_if_needed", sum_up)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def untied(tiny_base: Path) -> Any:
    """A base with an untied head, like 7B, and a forward pass that reads the head's weight without calling it, like Liger's."""
    base = model.load(str(tiny_base), dtype="float32")
    base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        hidden = base.model(input_ids=tokens).last_hidden_state
        return cross_entropy((hidden @ base.lm_head.weight.T)[0, :-1].float(), tokens[0, 1:])

    base.forward = forward
    return base


def prepared(base: Any, precision: str) -> Any:
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    if precision != "no":
        plugin.set_mixed_precision(precision)
    sharding.by_layer(plugin, base)
    state = SimpleNamespace(fsdp_plugin=plugin)
    return fsdp_utils.fsdp2_prepare_model(
        SimpleNamespace(state=state, mixed_precision=precision, is_main_process=True), base
    )


def test_a_head_that_is_read_and_not_called_is_gathered(alone: None, tiny_base: Path) -> None:
    whole, base = untied(tiny_base), prepared(untied(tiny_base), "no")
    assert sharding.parts(base) == {
        "Qwen2_5_VLDecoderLayer": 2, "Qwen2_5_VLVisionBlock": 2, "Embedding": 1, "Qwen2_5_VLRMSNorm": 1, "Linear": 1,
        "Qwen2_5_VLForConditionalGeneration": 1,
    }  # fmt: skip
    for _ in range(2):  # steps; and validation in between
        expected, loss = whole(TOKENS), base(TOKENS)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        expected.backward(), loss.backward()
        for one in ("lm_head.weight", "model.language_model.norm.weight", "model.language_model.embed_tokens.weight"):
            mine = base.get_parameter(one).grad
            assert isinstance(mine, DTensor)
            assert torch.allclose(mine.full_tensor(), whole.get_parameter(one).grad, atol=1e-5)
        whole.zero_grad(), base.zero_grad()
        with torch.no_grad():
            assert base(TOKENS).item() == pytest.approx(expected.item(), rel=1e-5)


def test_in_bfloat16_losses_and_sums_of_gradients_are_float32(alone: None, tiny_base: Path) -> None:
    base = prepared(untied(tiny_base), "bf16")
    one, three = sum_of_gradients(base, 1), sum_of_gradients(base, 3)
    # Three times a gradient has more bits than bfloat16 holds
    assert torch.equal(three, 3 * one)
    assert not torch.equal(three, three.bfloat16().float())
    assert base(TOKENS).dtype == torch.float32
    assert base(TOKENS).bfloat16() != base(TOKENS)


def sum_of_gradients(base: Any, passes: int) -> torch.Tensor:
    """The gradient of the head after this many passes of one step."""
    base.zero_grad()
    for number in range(passes):
        base.set_requires_gradient_sync(number == passes - 1)
        base(TOKENS).backward()
    gradient: torch.Tensor = base.lm_head.weight.grad.full_tensor()
    return gradient
