"""Pictures as LFM2.5-VL's processor cuts them; those of every family are in `test_architecture.py`."""

import random

import pytest
import torch
from PIL import Image

from storyreason import model, patches
from tests.tiny import Bases


@pytest.fixture(scope="module")
def processor(tiny_bases: Bases) -> object:
    return model.load_processor(str(tiny_bases("lfm2_vl")))


def test_a_picture_of_any_size_is_one_tile_whose_tokens_are_known_beforehand(processor: object) -> None:
    luck = random.Random(1)
    sizes = [(512, 512), (4000, 3200), (33, 900), *((luck.randint(1, 900), luck.randint(1, 900)) for _ in range(20))]
    cutting = patches.of(processor)
    found = processor.image_processor(images=[Image.new("RGB", size) for size in sizes], return_tensors="pt")  # type: ignore[attr-defined]
    pixels, grids = cutting.cut(found)
    assert len(grids) == len(sizes)
    assert len(pixels) == int(grids.prod(dim=1).sum())
    assert cutting.tokens(processor, sizes) == tuple((grids.prod(dim=1) // cutting.cell(processor)).tolist())
    # as the base's own does not: it would have cut the second into tiles
    assert type(processor.image_processor)().do_image_splitting  # type: ignore[attr-defined]


def test_what_the_base_is_given_is_what_the_processor_made(processor: object) -> None:
    luck = random.Random(2)
    pictures = [Image.frombytes("RGB", size, luck.randbytes(3 * size[0] * size[1])) for size in ((64, 96), (160, 64))]
    made = processor.image_processor(images=pictures, return_tensors="pt")  # type: ignore[attr-defined]
    given = patches.LFM.given(*patches.LFM.cut(made))
    longest = given["pixel_values"].shape[1]  # padded to the longest, not to what a picture may have
    assert longest < made["pixel_values"].shape[1]
    for name, there in given.items():
        whole = made[name] if name == "spatial_shapes" else made[name][:, :longest]
        assert torch.equal(there, whole)
