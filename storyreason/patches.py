"""How the processor of a family cuts pictures into patches and counts their tokens, and how its tower takes them.

Everywhere else pictures are patches [patches, patch size] of all of them one after another, and grids [pictures, 3]: time,
height and width in patches, so that no room but this one knows who pads, tiles or frames.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from storyreason.compat import models

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]
"""Width and height in pixels."""


class Patches:
    """As Qwen's processors do it: any picture is resized to whole cells of 2x2 patches, and nothing is padded."""

    processors: tuple[str, ...] = ("Qwen2_5_VLProcessor", "Qwen3VLProcessor")
    """The classes that make them."""
    settings: Mapping[str, Any] = {}
    """What is set in a base's image processor, here and in engines."""
    needed = models.IMAGE_TOKEN_COUNTER
    """What the processor must have."""

    def settle(self, processor: Any) -> None:
        """Have a processor that was loaded cut pictures as they are cut here."""
        for name, value in self.settings.items():
            setattr(processor.image_processor, name, value)

    def cell(self, processor: Any) -> int:
        """The patches of one token."""
        return int(processor.image_processor.merge_size**2)

    def framed(self, prompt: str, processor: Any) -> str:
        """A rendered prompt with what the processor puts around the token of each picture."""
        return prompt

    def tokens(self, processor: Any, sizes: Sequence[Size]) -> tuple[int, ...]:
        """The tokens of each picture. No picture is decoded. Raises ValueError for one that the processor refuses."""
        return models.image_tokens(processor, sizes)

    def resized(self, processor: Any) -> str | None:
        """The convention of boxes in pixels of the pictures as they are resized: `resized:28:3136:12845056`. None: there is
        none that holds for any picture."""
        pictures = processor.image_processor
        cell = pictures.patch_size * pictures.merge_size
        return f"resized:{cell}:{pictures.size['shortest_edge']}:{pictures.size['longest_edge']}"

    def cut(self, found: Mapping[str, Any]) -> "tuple[Tensor, Tensor]":
        """Patches and grids of the pictures that a processor processed."""
        return found["pixel_values"], found["image_grid_thw"]

    def given(self, pixels: "Tensor", grids: "Tensor") -> "dict[str, Tensor]":
        """The same as the arguments of a base, and of its `get_image_features`."""
        return {"pixel_values": pixels, "image_grid_thw": grids}

    def run(self, tower: Any, pixels: "Tensor", grids: "Tensor") -> Any:
        """What the tower by itself makes of them."""
        return tower(pixels, grid_thw=grids)

    def numbers(self, vision: Any) -> int:
        """The numbers of one patch, by the tower's configuration."""
        return int(vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)


class Whole(Patches):
    """LFM2.5-VL's: any picture is one tile, of `max_image_tokens` tokens at most; the patches of several are padded.

    Its processor would cut a picture of more than twice 512x512 pixels into tiles and a small copy of the whole. Then a
    picture has several features and its boxes no common grid, so that is turned off: in engines, too, which look at the
    numbers of tiles alone.
    """

    processors = ("Lfm2VlProcessor",)
    settings: Mapping[str, Any] = {"do_image_splitting": False, "min_tiles": 1, "max_tiles": 1}
    needed = "image_start_token"

    def cell(self, processor: Any) -> int:
        return int(processor.image_processor.downsample_factor**2)

    def framed(self, prompt: str, processor: Any) -> str:
        around = (processor.image_start_token, processor.image_token, processor.image_end_token)
        return prompt.replace(processor.image_token, "".join(around))

    def tokens(self, processor: Any, sizes: Sequence[Size]) -> tuple[int, ...]:
        pictures = processor.image_processor
        names = ("downsample_factor", "min_image_tokens", "max_image_tokens", "encoder_patch_size")
        side = pictures.downsample_factor * pictures.encoder_patch_size
        of = {name: getattr(pictures, name) for name in names}
        return tuple(math.prod(pictures.smart_resize(height, width, **of)) // side**2 for width, height in sizes)

    def resized(self, processor: Any) -> str | None:
        return None

    def cut(self, found: Mapping[str, Any]) -> "tuple[Tensor, Tensor]":
        import torch

        shapes = found["spatial_shapes"]
        pixels = found["pixel_values"][found["pixel_attention_mask"].bool()]
        return pixels, torch.cat([torch.ones_like(shapes[:, :1]), shapes], dim=1)

    def given(self, pixels: "Tensor", grids: "Tensor") -> "dict[str, Tensor]":
        from torch.nn.utils.rnn import pad_sequence

        parts = pixels.split(grids.prod(dim=1).tolist())
        there = [part.new_ones(len(part)) for part in parts]
        return {
            "pixel_values": pad_sequence(list(parts), batch_first=True),
            "spatial_shapes": grids[:, 1:],
            "pixel_attention_mask": pad_sequence(there, batch_first=True).int(),
        }

    def run(self, tower: Any, pixels: "Tensor", grids: "Tensor") -> Any:
        return tower(**self.given(pixels, grids))

    def numbers(self, vision: Any) -> int:
        return int(vision.num_channels * vision.patch_size**2)


QWEN, LFM = Patches(), Whole()


def of(processor: Any) -> Patches:
    """How a processor does it, by its class."""
    return next((one for one in (QWEN, LFM) if type(processor).__name__ in one.processors), QWEN)
