"""One short training of the tiny base model."""

import math
from collections.abc import Generator
from pathlib import Path

import pytest

from storyreason.errors import ConfigError
from storyreason.sample import exam
from storyreason.sample.base import vocabulary_texts
from storyreason.sample.curriculum import Batches, Course, drawn
from storyreason.sample.exam import box_f1
from storyreason.sample.teaching import BaseProgress, _keep, _rate, train
from storyreason.sample.tokenizer import make_processor


@pytest.fixture
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained model never ends its answer."""
    answers = exam.answers
    monkeypatch.setattr(
        exam, "answers", lambda model, processor, lessons, tokens=0: answers(model, processor, lessons, 24)
    )


@pytest.mark.server
@pytest.mark.usefixtures("_short_answers")
def test_a_short_training_leaves_a_model_that_loads_and_answers(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2_5_VLForConditionalGeneration

    out = tmp_path / "base"
    training = train(
        out, 2, 256, processes=2, report_every=2, tower_steps=3, evaluated=16, reading_steps=2, both_steps=1,
        last_steps=1,
    )  # fmt: skip
    told: list[BaseProgress] = list(training)

    assert [progress.step for progress in told] == [0, 2, 4, 6]
    assert told[0].tower is not None
    assert math.isnan(told[1].text_loss)  # frames alone
    assert math.isnan(told[2].loss)  # texts alone
    assert told[3].loss < told[1].loss
    assert told[3].text_loss < 9  # harder texts than before, after two steps
    assert told[-1].f1 is not None
    assert "from 800 tokens back" in str(told[-1])
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    processor = AutoProcessor.from_pretrained(tmp_path / "base")
    assert isinstance(model, Qwen2_5_VLForConditionalGeneration)
    assert 0.0 <= box_f1(model, processor, frames=16) <= 1.0
    card = (tmp_path / "base" / "README.md").read_text()
    assert "- steps of 16 frames: 2\n" in card
    assert (
        "- then steps of 256 tokens of random notes, lists and rows: 2; of both: 1; of frames, and of texts in every other: 1\n"
        in card
    )
    assert "unfinished" not in card
    assert "copy accuracy at 200 tokens back" in card
    assert "names looked up from 200 tokens back" in card
    assert "keys told of a place that stand there" in card
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.server
@pytest.mark.long
def test_a_training_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    def started(name: str) -> Generator[BaseProgress, None, None]:
        return train(
            tmp_path / name,
            1,
            256,
            processes=1,
            report_every=2,
            tower_steps=2,
            evaluated=16,
            reading_steps=1,
            both_steps=1,
            last_steps=1,
        )

    whole = list(started("whole"))
    killed = started("killed")
    assert [next(killed).step, next(killed).step] == [0, 2]
    killed.close()
    again = list(started("killed"))

    assert [line.step for line in again] == [2, 4]
    assert str(again[0]).startswith("goes on after step 2/4  vision tower")
    assert (again[-1].loss, again[-1].f1) == (whole[-1].loss, whole[-1].f1)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def test_an_unfinished_training_with_other_settings_is_not_written_over(tmp_path: Path) -> None:
    course = Course(1800, 4096, 150, 1350, 1500, 0, 2, 50, 800, 256, "cpu")
    _keep(tmp_path / "base", course, step=3250)
    kept = (tmp_path / ".base.unfinished.pt").read_bytes()

    with pytest.raises(
        ConfigError, match=r"3250 steps .* with text_tokens=4096, reading_steps=150.*: go on with these"
    ):
        next(train(tmp_path / "base", 1800))

    assert (tmp_path / ".base.unfinished.pt").read_bytes() == kept


def test_the_rate_falls_and_rises_again_for_what_follows_the_frames() -> None:
    course = Course(
        steps=1800, text_tokens=4096, reading_steps=150, both_steps=1350, last_steps=1500, seed=0, processes=1,
        report_every=1, tower_steps=0, evaluated=16, device="cpu",
    )  # fmt: skip
    rates = [_rate(step, course) for step in range(course.total)]

    for begin, end in ((0, 1800), (1800, 3300), (3300, 4800)):
        assert rates[begin] == 0.01
        assert rates[begin + 100] == pytest.approx(1)
        assert rates[end - 1] == pytest.approx(0.02, abs=1e-4)
        assert rates[begin + 100 : end] == sorted(rates[begin + 100 : end], reverse=True)


@pytest.mark.server
def test_other_processes_draw_the_same_batches() -> None:
    import torch

    course = Course(
        steps=1, text_tokens=256, reading_steps=1, both_steps=2, last_steps=2, seed=0, processes=1, report_every=1,
        tower_steps=1, evaluated=16, device="cuda",
    )  # fmt: skip
    batches = Batches(make_processor(vocabulary_texts()), course, rank=0)
    alone, ahead = ([batch for step in drawn(batches, 0, 6, device) for batch in step] for device in ("cpu", "cuda"))

    assert ["pixel_values" in batch for batch in alone] == [
        True,
        *(False, False, True, False, True),
        True,
        *(False, True),
    ]
    for one, other in zip(alone, ahead, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
