"""A model of 7B's shape as a mode trains it, and stories ready for it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from recipes import Recipe
from trial import prepared_model
from worlds import Seven

from benchmarks.gpu.common import DEVICE, DRY, seconds
from storyreason import architecture, chat
from storyreason.training import features, packing, plan
from storyreason.training.measure import Cost, peak_operations
from storyreason.training.trainer import token_losses

Mode = Literal["lora", "full", "language"]
Inputs = dict[str, Any]
Loss = Callable[[Any, Inputs, torch.Tensor], Any]
"""From the model, its inputs and the labels [1, tokens] to the sum of the tokens' losses."""
FUSED = not DRY
"""Liger's kernels, and AdamW in one kernel."""


class Subject:
    """The model with its optimizer; features of pictures are computed once and kept, except in mode `full`."""

    def __init__(self, mode: Mode, layers: int, stories: int, windows: bool = True) -> None:
        self.mode = mode
        self.kept = mode != "full"
        self.world = Seven(stories, layers=layers, small=DRY)
        base = self.world.model().to(torch.bfloat16 if mode == "lora" else torch.float32)
        base.config.text_config.use_cache = False
        recipe = Recipe("b", pack=True, features=self.kept, answer_loss=True, prepared=True, recompute="all")
        self.base = prepared_model(base, mode, recipe, False).to(DEVICE)
        if not windows:
            self.core.set_attn_implementation({"vision_config": "sdpa"})
        self.cost = Cost(self.base, mode)
        self.peak = peak_operations(torch.device(DEVICE), True)
        self.positions = packing.positions_of(self.base)
        self.tower_seconds: list[float] = []
        self.ready: list[chat.Inputs] = [self.world.inputs(index, "answer") for index in range(stories)]
        if self.kept:
            found = self._features()
            self.ready = [dataclasses.replace(one, pixel_values=found) for one in self.ready]
            features.leave_out(architecture.inside(self.base))
        if FUSED:
            from transformers.integrations.liger import apply_liger_kernel

            apply_liger_kernel(self.base, None)
        self.base.train()
        self.trained = [parameter for parameter in self.base.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4 if mode == "lora" else 1e-5, fused=FUSED)

    @property
    def core(self) -> Any:
        """The model without its adapters."""
        return self.base.get_base_model() if hasattr(self.base, "get_base_model") else self.base

    def _features(self) -> torch.Tensor:
        """The features of one story, four times: all stories show the same picture."""
        holder, one = architecture.inside(self.base), self.ready[0]
        found: list[Any] = []

        def look() -> None:
            with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
                pixels, grids = one.pixel_values.to(DEVICE), one.image_grid_thw.to(DEVICE)
                found.append(holder.get_image_features(pixels, grids, return_dict=True).pooler_output)

        self.tower_seconds = [seconds(look) for _ in range(4)]
        return torch.cat(list(found[-1])).cpu()

    def passes(self, chosen: Sequence[int], pack: int, loss: Loss) -> tuple[int, float]:
        """Forward and backward over these stories in packed rows; gives the rows and the last row's loss."""
        rows = plan.pack([self.world.lengths[index] for index in chosen], pack)
        total, value = sum(self.world.answers[index] for index in chosen), 0.0
        for row in rows:
            joined = packing.join([self.ready[chosen[place]] for place in row], self.positions)
            inputs: Inputs = {name: tensor.to(DEVICE, non_blocking=True) for name, tensor in joined.items()}
            labels = inputs.pop("labels")
            if self.kept:
                inputs["mm_encoder_outputs"] = architecture.as_seen(inputs.pop("pixel_values"), self.core.config)
            with torch.autocast(DEVICE, torch.bfloat16):
                one = loss(self.base, inputs, labels) / total
            one.backward()
            value = float(one.detach())
        return len(rows), value

    def update(self) -> None:
        """The optimizer's part of a step."""
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def figures(self, chosen: Sequence[int], spent: float) -> dict[str, float]:
        """Tokens per second and MFU of a step of these stories."""
        world = self.world
        operations = sum(self.cost.of(world.lengths[i], world.answers[i], self._seen(i)) for i in chosen)
        return {
            "tokens_per_s": sum(world.lengths[i] for i in chosen) / spent,
            "answer_tokens_per_s": sum(world.answers[i] for i in chosen) / spent,
            "mfu": operations / spent / self.peak,
        }

    def _seen(self, index: int) -> int:
        return 0 if self.kept else self.world.images[index]


def trainer_loss(model: Any, inputs: Inputs, labels: torch.Tensor) -> Any:
    """As a training computes it on this device: by Liger on a GPU."""
    if not FUSED:
        return token_losses(model, inputs, labels)
    return model(**inputs, labels=labels, skip_logits=True, num_items_in_batch=1, use_cache=False).loss
