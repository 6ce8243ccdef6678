"""Whole trainings of the families other than Qwen2.5-VL, whose own are in `test_run.py` and `test_together.py`."""

from pathlib import Path

import pytest

from storyreason import architecture, model, patches, training
from storyreason.errors import ConfigError
from storyreason.training import setup
from tests.storyreason.training.whole import FSDP, FULL, PACKED, PATCH, Lines, losses, weights
from tests.tiny import Bases

BOXES = {"boxes": "thousandths", "mode": "language", "max_steps": 3}


def job(base: Path, data: Path, work: Path, **config: object) -> training.Job:
    return training.Job(
        base=str(base), data=data, work=work, training=training.TrainingConfig.model_validate({**FULL, **config})
    )


@pytest.mark.server
@pytest.mark.long
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_5", "lfm2_vl"])
def test_sharded_packed_interrupted_and_without_its_tower_it_has_the_losses_of_a_plain_training(
    family: str, tiny_bases: Bases, tiny_data: Path, tmp_path: Path
) -> None:
    # Given a training in one process, of single stories and their pictures
    plain = job(tiny_bases(family), tiny_data, tmp_path / "plain", **BOXES, feature_cache_gb=0)
    training.run(plain, Lines(), env={"OMP_NUM_THREADS": "1"})
    # When two processes train on packed rows and cached features, and are interrupted
    shared = job(tiny_bases(family), tiny_data, tmp_path / "shared", **BOXES, **FSDP, **PACKED)
    before, after = Lines(stop_at=("checkpoint", 2)), Lines()
    with pytest.raises(KeyboardInterrupt):
        training.run(shared, before, env=PATCH)
    result = training.run(shared, after, env=PATCH)
    # Then they have the same losses
    assert after.of("start")[-1]["step"] in (2, 3)
    assert losses(shared) == pytest.approx(losses(plain), abs=1e-4)
    # each layer was sharded by itself, the tower was left out, and the result has it
    assert max(after.of("sharded")[-1]["parts"].values()) == 2
    assert before.of("features")[-1]["tower"] == "left out"
    tuned, base = weights(result), weights(tiny_bases(family))
    assert {name for name in base if tuned[name].equal(base[name])} == {
        name for name in base if architecture.in_tower(name)
    }
    assert model.prompt(result)["boxes"] == "thousandths"


def test_boxes_that_the_base_or_its_processor_does_not_know_are_refused(
    tiny_bases: Bases, tiny_data: Path, tmp_path: Path
) -> None:
    base = tiny_bases("qwen3_vl")
    processor = model.load_processor(str(base))
    own = patches.of(processor).resized(processor)
    setup.check_boxes(job(base, tiny_data, tmp_path, boxes=own), processor)
    with pytest.raises(ConfigError, match=rf"resized:28:4:9 is not how the processor .* generation\.boxes to {own}\."):
        setup.check_boxes(job(base, tiny_data, tmp_path, boxes="resized:28:4:9"), processor)
    # A base that this project trained says what it learnt
    model.write_prompt(tmp_path, images_first=True, boxes="thousandths")
    with pytest.raises(ConfigError, match=r"was trained with boxes=thousandths, and training\.boxes=original: set"):
        setup.check_boxes(job(tmp_path, tiny_data, tmp_path), processor)
    setup.check_boxes(job(tmp_path, tiny_data, tmp_path, boxes="thousandths"), processor)
