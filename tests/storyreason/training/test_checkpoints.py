from pathlib import Path

from storyreason.training import checkpoints


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
