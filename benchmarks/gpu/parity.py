"""The gradient of a small model on this device, by every way of computing it, against float32 on the CPU."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.gpu.common import DEVICE, DRY, report
from storyreason import architecture, chat, model, sample
from storyreason.sample import untrained
from storyreason.training import Job, TrainingConfig, packing, setup
from storyreason.training.config import Precision, Recompute
from storyreason.training.examples import StoryDataset, collate
from storyreason.training.trainer import token_losses

Mode = Literal["lora", "full", "language"]
MODES: tuple[Mode, ...] = ("lora", "full", "language")
WAYS: tuple[tuple[str, Recompute, bool], ...] = (
    ("packed", "none", False),
    ("packed, recompute all", "all", False),
    ("packed, selective", "selective", False),
    ("packed, liger", "none", True),
    ("packed, liger, selective", "selective", True),
)
"""Name, activation checkpointing, Liger's kernels."""
CLOSE = {"float32": 2e-4, "bfloat16": 0.05}
"""Relative distances of gradients that are still rounding."""


class Subject:
    """An untrained base and three of its stories."""

    def __init__(self, folder: Path) -> None:
        examples = list(sample.examples("train", seed=3, films=8))
        self.base = untrained.write(folder / "base", examples)
        encoder = chat.Encoder(model.load_processor(str(self.base)), images_first=False)
        stories = StoryDataset(examples, range(3), encoder, TrainingConfig())
        self.chosen = [stories[item] for item in ((0, 0), (3, 1), (5, 2))]

    def net(self, mode: Mode, dtype: Precision, recompute: Recompute, device: str, liger: bool = False) -> Any:
        """The model as a training has it, without dropout."""
        config = TrainingConfig(mode=mode, rank=4, dtype=dtype, recompute=recompute, pack_tokens=8192)
        job = Job(base=str(self.base), data=self.base, work=self.base, training=config)
        made = setup.load_model(job, cuda=device == "cuda")
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
        for module in made.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if recompute != "none":
            made.gradient_checkpointing_enable(gradient_checkpointing_kwargs=setup.checkpointing(recompute))
        if liger:
            from transformers.integrations.liger import apply_liger_kernel

            apply_liger_kernel(made, None)
        return made.to(device).train()

    def single(self) -> list[dict[str, Any]]:
        return [collate([one], pad=0) for one in self.chosen]

    def with_features(self, net: Any, bf16: bool) -> list[chat.Inputs]:
        holder = architecture.inside(net)
        found = []
        with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
            for one in self.chosen:
                pixels, grids = one.pixel_values.to(DEVICE), one.image_grid_thw.to(DEVICE)
                seen = holder.get_image_features(pixels, grids, return_dict=True)
                found.append(dataclasses.replace(one, pixel_values=torch.cat(list(seen.pooler_output)).cpu()))
        return found


def gradient(net: Any, rows: list[dict[str, Any]], bf16: bool, device: str, liger: bool = False) -> torch.Tensor:
    """The gradient of all trained weights after these rows, as one vector in float64 on the CPU."""
    net.zero_grad()
    for row in rows:
        inputs = {key: value.to(device) if hasattr(value, "to") else value for key, value in row.items()}
        labels = inputs.pop("labels")
        if "features" in inputs:
            inputs["mm_encoder_outputs"] = architecture.as_seen(inputs.pop("features"), net.config)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            if liger:
                loss = net(**inputs, labels=labels, skip_logits=True, num_items_in_batch=1, use_cache=False).loss
            else:
                loss = token_losses(net, inputs, labels)
        (loss / 1000).backward()
    return torch.cat([p.grad.flatten().cpu() for p in net.parameters() if p.grad is not None]).double()


def attend_plainly(net: Any) -> None:
    core = net.get_base_model() if hasattr(net, "get_base_model") else net
    core.set_attn_implementation("sdpa")


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def distances(subject: Subject, mode: Mode, dtype: Precision, reference: torch.Tensor) -> dict[str, float]:
    """The relative distance of each way's gradient from the reference."""
    bf16, found = dtype == "bfloat16", {}
    for name, recompute, liger in WAYS:
        if DRY and (liger or recompute == "all"):
            continue
        net = subject.net(mode, dtype, recompute, DEVICE, liger)
        positions = packing.positions_of(net)
        found[name] = distance(gradient(net, [packing.join(subject.chosen, positions)], bf16, DEVICE, liger), reference)
        if name != "packed":
            continue
        if mode != "full":
            row: dict[str, Any] = packing.join(subject.with_features(net, bf16), positions)
            row["features"] = row.pop("pixel_values")
            found["packed, features"] = distance(gradient(net, [row], bf16, DEVICE), reference)
        attend_plainly(net)
        found["single"] = distance(gradient(net, subject.single(), bf16, DEVICE), reference)
    return found


def measure() -> None:
    """Each mode in float32 and bfloat16: packed, with features, with activation checkpointing, with Liger."""
    torch.backends.cudnn.allow_tf32 = False  # the patches are a convolution
    with tempfile.TemporaryDirectory() as folder:
        subject, references = Subject(Path(folder)), {}
        for mode in MODES:  # first, for Liger changes the classes, and its kernels run on a GPU only
            net = subject.net(mode, "float32", "none", "cpu")
            attend_plainly(net)
            references[mode] = gradient(net, subject.single(), False, "cpu")
        for mode in MODES:
            for dtype in ("float32", "bfloat16"):
                found = distances(subject, mode, dtype, references[mode])
                report(
                    mode=mode,
                    dtype=dtype,
                    distance_to_float32_on_cpu={name: float(f"{value:.2g}") for name, value in found.items()},
                    ok=all(value < CLOSE[dtype] for value in found.values()),
                )
