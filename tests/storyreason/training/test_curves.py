"""The picture of a training's losses."""

from storyreason.training import curves


def test_both_losses_are_drawn_and_a_step_that_was_done_again_counts_once() -> None:
    lines = [
        {"event": "start", "step": 0},
        {"event": "step", "step": 1, "loss": 4.0},
        {"event": "step", "step": 2, "loss": 3.0},
        {"event": "validation", "step": 2, "loss": 3.5},
        {"event": "step", "step": 2, "loss": 2.5},
    ]
    (axes,) = curves.draw(lines).axes
    drawn = {str(line.get_label()): line.get_xydata().tolist() for line in axes.lines}
    assert drawn == {"training": [[1, 4.0], [2, 2.5]], "validation": [[2, 3.5]]}


def test_a_training_without_validation_has_one_curve() -> None:
    (axes,) = curves.draw([{"event": "step", "step": 1, "loss": 4.0}]).axes
    assert [line.get_label() for line in axes.lines] == ["training"]
