"""QLoRA: adapters over a base in four bits."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from storyreason import dataset, model, training
from storyreason.errors import ConfigError
from storyreason.sample import untrained
from storyreason.training import Job, TrainingConfig, memory, setup
from storyreason.training.machine import Machine
from storyreason.training.measure import Cost
from tests.storyreason.training.whole import FULL, LORA, PACKED, Lines, files, losses
from tests.tiny import Bases

NF4 = {**FULL, **LORA, **PACKED, "quantize": "nf4", "max_steps": 4, "recompute": "all"}


def job(base: Path, data: Path, work: Path, **config: object) -> Job:
    return Job(base=str(base), data=data, work=work, training=TrainingConfig.model_validate({**NF4, **config}))


@pytest.mark.server
@pytest.mark.long
def test_it_trains_resumes_and_merges_into_the_bases_own_weights(
    tiny_examples: list[dataset.Example], tiny_data: Path, tmp_path: Path
) -> None:
    base = untrained.write(tmp_path / "base", tiny_examples, family="qwen3_vl", wide=True)  # quantized in blocks of 64
    one = {"OMP_NUM_THREADS": "1"}
    whole = job(base, tiny_data, tmp_path / "whole")
    result = training.run(whole, Lines(), env=one)
    # One that is interrupted learns the same, byte for byte
    parted = job(base, tiny_data, tmp_path / "parted")
    with pytest.raises(KeyboardInterrupt):
        training.run(parted, Lines(stop_at=("checkpoint", 2)), env=one)
    assert (
        files(training.run(parted, Lines(), env=one))["adapter_model.safetensors"]
        == (files(result)["adapter_model.safetensors"])
    )
    found = losses(whole)
    assert found[4] < found[1]
    # The model folder has the base's weights, in its dtype, with the adapters merged
    out = model.write_folder(str(base), result, tmp_path / "model", "")
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    before, after = model.load(str(base)).state_dict(), model.load(str(out)).state_dict()
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed and all("self_attn" in name for name in changed)
    assert {weight.dtype for weight in after.values()} == {weight.dtype for weight in before.values()}


def test_the_language_model_is_in_four_bits_and_its_operations_and_memory_are_counted(
    tiny_bases: Bases, tmp_path: Path
) -> None:
    base = tiny_bases("qwen2_5_vl")
    quantized = setup.load_model(job(base, tmp_path, tmp_path), cuda=False)
    plain = setup.load_model(job(base, tmp_path, tmp_path, quantize=None), cuda=False)
    kinds = {name: weight.dtype for name, weight in quantized.named_parameters()}
    packed = {name for name, dtype in kinds.items() if dtype is torch.uint8}
    assert packed and all(".language_model.layers." in name and name.endswith("weight") for name in packed)
    assert sum("_proj" in name and "lora" not in name and name.endswith("weight") for name in kinds) - sum(
        "_proj" in name and "visual" in name and name.endswith("weight") for name in kinds
    ) == len(packed)
    assert Cost(quantized, "lora").of(100, 50, 0) == Cost(plain, "lora").of(100, 50, 0)
    row, config = memory.Row(1024, 512), model.config(str(base))
    planned = [memory.of(config, job(base, tmp_path, tmp_path, quantize=one).training, row) for one in (None, "nf4")]
    numbers = dict(plain.named_parameters())
    saved = planned[0].weights - planned[1].weights
    assert saved == pytest.approx((4 - memory.NF4) * sum(numbers[name].numel() for name in packed), abs=2)


def test_what_cannot_be_in_four_bits_is_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"training\.mode=full trains its weights: set training\.mode=lora, or leave"
    ):
        TrainingConfig(mode="full", quantize="nf4")
    with pytest.raises(ConfigError, match=r"fsdp2-cpu2 shards the base, and one in four bits cannot .*accelerate=1gpu"):
        Machine.of(TrainingConfig(quantize="nf4", accelerate="fsdp2-cpu2", dtype="float32")).check()
