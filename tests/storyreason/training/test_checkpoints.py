import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import create_model
from safetensors.torch import save_file

from storyreason import chat, dataset, model
from storyreason.errors import TrainingError
from storyreason.training import Job, TrainingConfig, checkpoints
from storyreason.training.examples import StoryDataset


def make(work: Path, *steps: int) -> None:
    for step in steps:
        checkpoints.temporary(work, step).mkdir(parents=True)
        checkpoints.temporary(work, step).rename(checkpoints.path(work, step))


def test_only_a_renamed_checkpoint_counts(tmp_path: Path) -> None:
    make(tmp_path, 5, 10)
    checkpoints.temporary(tmp_path, 15).mkdir()
    assert checkpoints.newest(tmp_path) == 10
    checkpoints.clear(tmp_path)
    assert not checkpoints.temporary(tmp_path, 15).exists()
    assert checkpoints.newest(tmp_path) == 10


def test_the_newest_two_and_the_best_stay(tmp_path: Path) -> None:
    make(tmp_path, 2, 4, 6, 10, 100)
    checkpoints.rotate(tmp_path, best=4)
    assert checkpoints.steps(tmp_path) == [4, 10, 100]


def test_a_fresh_folder_has_none(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "nothing") is None


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.pt", "identity.json"])
def test_a_checkpoint_that_the_disk_lost_a_part_of_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    make(tmp_path, 5, 10)
    folder = checkpoints.path(tmp_path, 10)
    save_file({"weight": torch.zeros(100)}, folder / "trained.safetensors")
    torch.save({"weight": torch.zeros(100)}, folder / "optimizer.pt")
    (folder / "identity.json").write_text('{"stories_per_step": 4}')
    assert checkpoints.to_resume(tmp_path, {"stories_per_step": 4}) == 10

    torn = folder / name
    torn.write_bytes(torn.read_bytes()[:-10])

    with pytest.raises(
        TrainingError, match=f"^The disk lost a part of {torn}: remove .*resumes from the one of step 5"
    ):
        checkpoints.to_resume(tmp_path, {"stories_per_step": 4})


def test_a_checkpoint_belongs_to_its_weights_and_to_its_pictures(
    tiny_base: Path, tiny_examples: list[dataset.Example], tmp_path: Path
) -> None:
    config = TrainingConfig(mode="full", dtype="float32")
    job = Job(base=str(tiny_base), data=tmp_path, work=tmp_path, training=config)
    encoder = chat.Encoder(model.load_processor(str(tiny_base)), images_first=False)
    base, stories = model.load(str(tiny_base)), StoryDataset(tiny_examples, range(4), encoder, config)

    def identity(
        job: Job, stories: StoryDataset, base: Any, per_step: int = 4, sharded: bool = False
    ) -> dict[str, Any]:
        return checkpoints.identity(job, stories, base, per_step, sharded)

    mine = identity(job, stories, base)
    assert identity(job, stories, base.bfloat16()) == mine
    # The same name, but trained further
    other = model.load(str(tiny_base))
    other.lm_head.weight.data *= 1.1
    assert changed(mine, identity(job, stories, other)) == {"weights_hash"}
    # The same stories with other pictures
    one = replace(tiny_examples[2], images=(tiny_examples[2].images[1], *tiny_examples[2].images[1:]))
    examples = [*tiny_examples[:2], one, *tiny_examples[3:]]
    again = StoryDataset(examples, range(4), encoder, config)
    assert changed(mine, identity(job, again, model.load(str(tiny_base)))) == {"stories_hash"}
    # The same number of stories per step in other processes; more of them; and in shards
    two = config.model_copy(update={"processes": 2, "accumulation": config.accumulation // 2})
    assert identity(job.model_copy(update={"training": two}), stories, base) == mine
    assert changed(mine, identity(job, stories, base, per_step=8)) == {"stories_per_step"}
    assert changed(mine, identity(job, stories, base, sharded=True)) == {"sharded"}


def changed(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {key for key in one | other if one.get(key) != other.get(key)}


def test_a_checkpoint_from_before_a_setting_was_added_is_resumed_at_the_settings_default_alone(tmp_path: Path) -> None:
    def later(**given: int) -> TrainingConfig:
        added: Any = (int, 1)
        return create_model("Later", __base__=TrainingConfig, novelty=added)(**given)

    def identity(training: TrainingConfig) -> dict[str, Any]:
        return Job(base="base", data=tmp_path, work=tmp_path, training=training).identity()

    make(tmp_path, 3)
    written = checkpoints.path(tmp_path, 3) / checkpoints.IDENTITY
    written.write_text(json.dumps(identity(TrainingConfig())))
    assert checkpoints.to_resume(tmp_path, identity(later())) == 3
    with pytest.raises(TrainingError, match=r"\(other novelty\)"):
        checkpoints.to_resume(tmp_path, identity(later(novelty=2)))
    # and the other way round
    written.write_text(json.dumps(identity(later(novelty=2))))
    with pytest.raises(TrainingError, match=r"\(other novelty\)"):
        checkpoints.to_resume(tmp_path, identity(later()))


def test_a_checkpoint_of_another_model_or_data_version_is_refused_and_ignored_on_request(tmp_path: Path) -> None:
    mine = {"learning_rate": 1e-4, "stories_per_step": 4, "stories_hash": "a", "weights_hash": "b"}
    assert checkpoints.to_resume(tmp_path, mine) is None
    make(tmp_path, 3, 7)
    (checkpoints.path(tmp_path, 7) / checkpoints.IDENTITY).write_text(json.dumps(mine))
    assert checkpoints.to_resume(tmp_path, mine) == checkpoints.to_resume(tmp_path, mine, afresh=True) == 7
    with pytest.raises(
        TrainingError,
        match=r"\(other stories_per_step\): to resume, set training.accumulation so that "
        r"batch_size x accumulation x processes = 4; or set training.afresh=true",
    ):
        checkpoints.to_resume(tmp_path, {**mine, "stories_per_step": 8})
    for other in ("stories_hash", "weights_hash"):
        with pytest.raises(
            TrainingError, match=rf"checkpoint-7 is .* another run \(other {other}\): set training.afresh"
        ):
            checkpoints.to_resume(tmp_path, {**mine, other: "c"})
        assert checkpoints.to_resume(tmp_path, {**mine, other: "c"}, afresh=True) is None
    checkpoints.clear(tmp_path, whole=True)
    assert checkpoints.steps(tmp_path) == []
