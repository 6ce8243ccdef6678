"""What happens to each odd picture: checked, trained on, told in this process, shown. `served`: serving/test_odd_pictures."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storyreason import chat, dataset, pictures
from storyreason.cli.page import _views
from storyreason.errors import DataError
from storyreason.generation import GenerationConfig
from storyreason.generation.inprocess import InProcess
from storyreason.sample.tokenizer import make_processor
from storyreason.training.config import TrainingConfig
from storyreason.training.examples import StoryDataset
from tests.storyreason.odd import PICTURES, Odd, pixels

TAKEN = {name: odd for name, odd in PICTURES.items() if not odd.refused}
REFUSED = {name: odd for name, odd in PICTURES.items() if odd.refused}


@pytest.fixture(scope="module")
def story(examples: list[dataset.Example]) -> dataset.Example:
    """The shortest of the sample's stories."""
    return min(examples, key=lambda example: len(example.images))


@pytest.fixture(scope="module")
def encoder(story: dataset.Example) -> chat.Encoder:
    return chat.Encoder(make_processor([story.chain_of_thought, story.story], 640))


def imported(story: dataset.Example, odd: Odd, folder: Path) -> dataset.Example:
    """The story with its first frame replaced, as it lies in a data set once it has come in."""
    dataset.write([replace(story, images=(odd.encoded, *story.images[1:]))], folder, "train")
    (example,) = dataset.load(folder, "train")
    return example


@pytest.mark.parametrize("odd", TAKEN.values(), ids=TAKEN)
def test_training_and_scores_see_the_picture_that_came_in(
    story: dataset.Example, encoder: chat.Encoder, odd: Odd, tmp_path: Path
) -> None:
    example = imported(story, odd, tmp_path)
    assert odd.pixels is not None
    assert dataset.sizes(example)[0] == odd.pixels.shape[1::-1], "grammars and rules"
    assert not [fault for fault in dataset.inspect(example).faults if "decode" in fault[1]], "check"

    stories = StoryDataset([example], [0], encoder, TrainingConfig())
    patches, grids = stories.decode(0)
    wanted, grid = encoder.pictures([Image.fromarray(odd.pixels)])
    assert (grids[0] == grid[0]).all() and (patches[: len(wanted)] == wanted).all()
    assert stories.story(0).image_tokens[0] == int(grid.prod()) // 4, "what the picture was counted as"


@pytest.mark.parametrize("odd", REFUSED.values(), ids=REFUSED)
def test_check_names_what_training_leaves_out(
    story: dataset.Example, encoder: chat.Encoder, odd: Odd, tmp_path: Path
) -> None:
    example = imported(story, odd, tmp_path)
    (fault,) = (fault for fault in dataset.inspect(example).faults if fault[0] is not None)
    assert (
        fault[0] == 1
        and "does not decode" in fault[1]
        and (odd.refused.strip() if odd.encoded else "not in the file") in fault[1]
    )
    left_out = StoryDataset([example], [], encoder, TrainingConfig()).prepared
    assert (len(left_out), [bad.image for bad in left_out.bad]) == (0, [1])


@pytest.mark.parametrize("odd", PICTURES.values(), ids=PICTURES)
def test_a_model_in_this_process_sees_it(odd: Odd) -> None:
    engine = object.__new__(InProcess)  # only its sessions' pictures matter, and loading a model takes seconds
    engine.processor = make_processor(["once upon a time"], 300)
    if odd.refused:
        with pytest.raises(DataError, match="image 1 does not decode as a picture"):
            engine.session([odd.encoded], GenerationConfig())
    else:
        (picture,) = engine.session([odd.encoded], GenerationConfig()).pictures
        assert (np.asarray(picture) == odd.pixels).all()


@pytest.mark.parametrize("odd", PICTURES.values(), ids=PICTURES)
def test_a_page_shows_it(story: dataset.Example, odd: Odd, tmp_path: Path) -> None:
    imported(replace(story, images=story.images[:1]), odd, tmp_path)
    views = _views(tmp_path, None, "train", None)
    if odd.refused:
        with pytest.raises(DataError, match=f"Story {story.story_id}, image 1 does not decode as a picture"):
            next(views)
        return
    shown = next(views)["images"][0]
    assert odd.pixels is not None
    assert (shown["height"], shown["width"], 3) == odd.pixels.shape, "the frame in which boxes are drawn"
    with Image.open(io.BytesIO(pictures.from_data_url(shown["src"]))) as picture:
        assert picture.size == (shown["width"], shown["height"])
        assert (pixels(picture) == odd.pixels).all()
