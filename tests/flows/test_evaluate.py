"""What `storyreason evaluate` is told to evaluate."""

from pathlib import Path

import pytest

from flows.evaluate import named
from storyreason.config import RunConfig

CONFIG = RunConfig()


@pytest.mark.parametrize("which", ["champion", "base", "3"])
def test_a_version_or_the_base_is_that_of_the_preset(which: str) -> None:
    assert named(CONFIG, which) == (CONFIG, which)


def test_a_name_on_the_hub_or_a_folder_is_evaluated_as_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, which = named(CONFIG, "daniel3303/QwenStoryteller")
    assert (config.base.name, config.base.revision, which) == ("daniel3303/QwenStoryteller", None, "base")
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    config, which = named(CONFIG, "mine")
    assert (config.base.name, which) == ("mine", "base")
    assert config.training == CONFIG.training
