"""Trains the vision tower before the language model: what is in each cell of a frame, and where it begins and ends.

With an untrained tower a tiny language model has nothing to read and learns to guess: trained together from the start, it
still gave the same boxes for every frame after a thousand steps.
"""

import math
import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, get_args

from storyreason.model import fast_products
from storyreason.sample.drawing import Frame, PlacedEntity, draw
from storyreason.sample.lessons import a_frame
from storyreason.sample.world import (
    COATS,
    HAIR,
    HATS,
    HEIGHT,
    LANDMARKS,
    LIGHTS,
    PLACES,
    THINGS,
    WIDTH,
    Entity,
    Landmark,
    Look,
    Pose,
    Region,
    Thing,
)

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

CELL = 28
"""Pixels: the tower produces one token for each cell of 28x28."""
GRID = 7
NOTHING = -100
"""The target of a question that has no answer for a cell (torch's `ignore_index`)."""

_KINDS = ("woman", "man", *THINGS, *LANDMARKS, *(place.region for place in PLACES if place.region), "nothing")
_POSES = get_args(Pose)
_ROWS, _COLUMNS = HEIGHT // CELL, WIDTH // CELL
QUESTIONS = {
    "kind": len(_KINDS), "colour": len(COATS), "hair": len(HAIR), "hat": len(HATS), "pose": len(_POSES),
    "x1": WIDTH // GRID + 1, "y1": HEIGHT // GRID + 1, "x2": WIDTH // GRID + 1, "y2": HEIGHT // GRID + 1,
    "row": _ROWS, "column": _COLUMNS, "place": len(PLACES), "light": len(LIGHTS),
}  # fmt: skip
"""The questions about each token, and the number of possible answers. Box corners are in steps of 7 pixels."""


def answers(frame: Frame) -> list[list[int]]:
    """The answers for a frame's 4x7 cells, row by row, in the order of `QUESTIONS`."""
    return [_spot(frame, row, column) for row in range(_ROWS) for column in range(_COLUMNS)]


def _spot(frame: Frame, row: int, column: int) -> list[int]:
    here = [row, column, PLACES.index(frame.place), LIGHTS.index(frame.light)]
    placed = _foremost(frame, row, column)
    if placed is None:
        return [_KINDS.index("nothing"), *[NOTHING] * 8, *here]
    entity = placed.entity
    colour = entity.coat if isinstance(entity, Look) else entity.colour if isinstance(entity, Thing) else None
    look = [NOTHING] * 3
    if isinstance(entity, Look):
        look = [list(HAIR).index(entity.hair), HATS.index(entity.hat), _POSES.index(placed.pose)]
    corners = [corner // GRID for corner in placed.box]
    return [_KINDS.index(_kind(entity)), NOTHING if colour is None else COATS.index(colour), *look, *corners, *here]


def _kind(entity: Entity) -> str:
    if isinstance(entity, Look):
        return entity.sex
    return (
        entity.shape if isinstance(entity, Thing) else entity.building if isinstance(entity, Landmark) else entity.name
    )


def _foremost(frame: Frame, row: int, column: int) -> PlacedEntity | None:
    """What covers at least an eighth of the cell: people and things before landmarks before regions."""
    left, top = column * CELL, row * CELL

    def covered(placed: PlacedEntity) -> int:
        box = placed.box
        width = min(box.x2, left + CELL) - max(box.x1, left)
        height = min(box.y2, top + CELL) - max(box.y1, top)
        return max(0, width) * max(0, height)

    there = [placed for placed in frame.placed if covered(placed) >= CELL * CELL // 8]
    depth = {Look: 0, Thing: 0, Landmark: 1, Region: 2}
    return min(there, key=lambda placed: (depth[type(placed.entity)], -covered(placed)), default=None)


def batch_of(luck: random.Random, processor: "Qwen2_5_VLProcessor", frames: int = 16) -> "dict[str, torch.Tensor]":
    """The pictures of `frames` frames as the processor makes them, and `truth` [cells, questions]."""
    import torch

    seen = [a_frame("train", luck) for _ in range(frames)]
    pictures = processor.image_processor(images=[draw(frame) for frame in seen], return_tensors="pt")
    return {**pictures, "truth": torch.tensor([spot for frame in seen for spot in answers(frame)])}


def teach(
    model: "Qwen2_5_VLForConditionalGeneration",
    batches: "Iterable[dict[str, torch.Tensor]]",
    steps: int,
    average: Callable[["list[torch.nn.Parameter]"], None],
    rate: float = 1e-3,
) -> float:
    """Train the tower of `model` in place with a linear layer on its tokens that is discarded afterwards.

    `batches` are those of `batch_of`, one for each of the `steps`; `average` averages gradients over processes. Returns
    the accuracy in the last steps, as the mean over the questions.
    """
    import torch

    tower: Any = model.model.visual
    width: int = tower.config.out_hidden_size
    torch.manual_seed(0)
    device = model.device
    reader = torch.nn.Linear(width, sum(QUESTIONS.values())).to(device)
    parameters = [*tower.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    right: list[float] = []
    for step, batch in enumerate(batches, 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / 50) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
        given = {name: tensor.to(device) for name, tensor in batch.items()}
        truth = given["truth"]
        with fast_products(device.type):
            tokens = tower(given["pixel_values"], grid_thw=given["image_grid_thw"]).pooler_output
            told = reader(tokens).float().split(list(QUESTIONS.values()), dim=1)
        losses = []
        for number, logits in enumerate(told):
            asked = truth[:, number] != NOTHING
            if asked.any():
                losses.append(torch.nn.functional.cross_entropy(logits[asked], truth[asked, number]))
                if step > steps - 10:
                    right.append((logits[asked].argmax(1) == truth[asked, number]).float().mean().item())
        torch.stack(losses).sum().backward()
        average(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return sum(right) / len(right)
