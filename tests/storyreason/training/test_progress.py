import json
from pathlib import Path

import numpy as np

from storyreason.training import progress
from storyreason.training.progress import ProgressWriter


def test_a_new_attempt_drops_the_lines_after_its_checkpoint(tmp_path: Path) -> None:
    # Given an attempt that logged three steps and died after a checkpoint at the second
    first = ProgressWriter(tmp_path)
    first.begin("a", step=0, steps=5)
    for step in (1, 2, 3):
        first.write("step", step=step, loss=1.0 / step)
        if step == 2:
            first.write("checkpoint", step=2, path="checkpoint-2")
    # When the next one resumes there
    second = ProgressWriter(tmp_path)
    second.begin("b", step=2, steps=5)
    second.write("step", step=3, loss=0.3)
    # Then each step is there once
    lines = progress.read(tmp_path)
    assert [(line["event"], line["step"]) for line in lines] == [
        ("start", 0), ("step", 1), ("step", 2), ("checkpoint", 2), ("start", 2), ("step", 3),
    ]  # fmt: skip
    assert lines[-1]["loss"] == 0.3


def test_a_half_written_line_is_not_read(tmp_path: Path) -> None:
    (tmp_path / progress.FILE).write_text(json.dumps({"event": "step", "step": 1}) + '\n{"event": "st')
    assert progress.read(tmp_path) == [{"event": "step", "step": 1}]


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    other = ProgressWriter(tmp_path, muted=True)
    other.begin("a", step=0)
    other.write("step", step=1)
    assert progress.read(tmp_path) == []


def test_both_losses_are_drawn_and_a_repeated_step_counts_once() -> None:
    lines = [
        {"event": "start", "step": 0},
        {"event": "step", "step": 1, "loss": 4.0},
        {"event": "step", "step": 2, "loss": 3.0},
        {"event": "validation", "step": 2, "loss": 3.5},
        {"event": "step", "step": 2, "loss": 2.5},
    ]
    (axes,) = progress.draw_losses(lines).axes
    drawn = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axes.lines}
    assert drawn == {"training": [[1, 4.0], [2, 2.5]], "validation": [[2, 3.5]]}


def test_a_training_without_validation_has_one_curve() -> None:
    (axes,) = progress.draw_losses([{"event": "step", "step": 1, "loss": 4.0}]).axes
    assert [line.get_label() for line in axes.lines] == ["training"]
