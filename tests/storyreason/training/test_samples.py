"""A round's answers: what each is worth beside the others, and which of them teach nothing."""

from pathlib import Path

import pytest

from storyreason.scoring import Reward
from storyreason.training import plan, samples


def rewards(*totals: float) -> list[Reward]:
    return [Reward(total, {"readable": float(total > 0), "length": total}) for total in totals]


def test_an_answer_is_compared_with_the_others_of_its_story() -> None:
    found = samples.compared("film-1", [("a", False, 9), ("b", True, 3), ("c", False, 6)], rewards(0.2, 0.6, 0.4))

    assert [one.advantage for one in found] == pytest.approx([-1, 1, 0])
    assert [(one.answer, one.cut, one.tokens) for one in found] == [("a", False, 9), ("b", True, 3), ("c", False, 6)]


def test_answers_of_the_same_reward_teach_nothing_and_are_counted() -> None:
    answers = [("a", False, 4), ("b", True, 8)]
    found = [
        *samples.compared("film-1", answers, rewards(0.25, 0.75)),
        *samples.compared("film-2", answers, rewards(0.5, 0.5)),
        *samples.compared("film-3", answers, rewards(0, 0)),
    ]

    assert [one.advantage is None for one in found] == [False, False, True, True, True, True]
    summary = samples.summary(found)
    assert (summary["asked"], summary["dropped"], summary["failed"]) == (3, 2, 1)
    assert summary["reward"] == pytest.approx(2 / 6)
    assert summary["readable"] == pytest.approx(4 / 6)
    assert (summary["tokens"], summary["cut"]) == (6, 0.5)


def test_answers_are_read_back_whatever_a_model_wrote(tmp_path: Path) -> None:
    """Python ends a line at each of these characters, and JSON does not."""
    odd = "One\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven\nend\r\n"
    found = samples.compared("film-1", [(odd, False, 9), ("b", True, 3)], rewards(0.2, 0.6))

    samples.write(tmp_path / samples.FILE, found)

    assert samples.read(tmp_path / samples.FILE) == found


@pytest.mark.parametrize("pack_tokens", [None, 30])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_round_takes_each_answer_once_and_only_its_own_steps(pack_tokens: int | None, processes: int) -> None:
    lengths = [10, 12, 8, 11, 9, 10, 7]
    made = plan.of_round(
        lengths,
        number=1,
        rounds=3,
        steps=2,
        stories=20,
        asked=4,
        answers=2,
        batch_size=2,
        processes=processes,
        seed=1,
        pack_tokens=pack_tokens,
    )

    assert (made.steps, made.last, made.per_step) == (6, 4, 8)
    assert [bool(made.step(step)) for step in range(6)] == [False, False, True, True, False, False]
    taken = [index for step in range(6) for _, index in made.step(step)]
    assert len(taken) == len(set(taken)) == len(lengths) // processes * processes
    passes = [one for part in made.parts for one in part]
    assert all(len(one) == processes and all(one) for one in passes)
    assert max(sum(lengths[index] for _, index in items) for one in passes for items in one) <= (pack_tokens or 24)
    assert [step for step in range(1, 7) if made.ends_epoch(step)] == [2, 4, 6]
    assert made.epochs_after(4) == 2 * 4 / 20
