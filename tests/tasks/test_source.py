"""A preset for another data set is not trained on the sample's stories by mistake."""

from dataclasses import replace
from pathlib import Path

import pytest

from storyreason import config, dataset, sample
from storyreason.errors import DataError
from tasks import data
from tasks.results import Pulled

EXAMPLES = list(sample.examples("test", films=1))


def checked(folder: Path, examples: list[dataset.Example], *overrides: str) -> None:
    dataset.write(examples, folder / "data", "test")
    pulled = Pulled((str(folder / "data"),), md5="0" * 32, rev=None, card="", faulty_test_stories={})
    data._check_source(config.load("qwen2.5-vl-7b-lora", overrides), pulled)


def test_the_papers_presets_refuse_the_samples_data(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        checked(tmp_path, EXAMPLES)
    assert str(refused.value) == (
        "The preset qwen2.5-vl-7b-lora is for daniel3303/StoryReasoning, and data.dvc is the sample's data: replace it with "
        "`storyreason data import daniel3303/StoryReasoning`, or use it all the same with `--set data.source=null`."
    )


def test_unless_they_are_told_to_use_it(tmp_path: Path) -> None:
    checked(tmp_path, EXAMPLES, "data.source=null")


def test_other_stories_are_accepted(tmp_path: Path) -> None:
    checked(tmp_path, [replace(one, story_id=f"tt0111161-{number}") for number, one in enumerate(EXAMPLES)])
