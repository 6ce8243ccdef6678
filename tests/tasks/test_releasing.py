"""A new data version is complete or was never begun, whatever ends it; and what to commit is said."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from storyreason import dataset, runs, sample
from storyreason.config import DataConfig
from storyreason.errors import DataError
from tasks import compat, data, releasing, versioning
from tests.tasks.cloned import clone, commit, dvc, origin, pull, pushed, run, stories  # noqa: F401 (fixtures)

# ruff: noqa: F811 (the same as arguments)

KILLS = {
    "while the shards are written": ("pyarrow.parquet.ParquetWriter.write_table", "before"),
    "before it is pushed": ("dvc.data_cloud.DataCloud.push", "before"),
    "before it has a name": ("tasks.releasing.runs.write_text", "before"),
    "before it is in the work tree": ("tasks.data.runs.replace", "after"),
    "before the old one is gone": ("storyreason.runs.shutil.rmtree", "after"),
}
ADD = """
import os, signal, sys
from unittest.mock import patch
from storyreason import dataset
from tasks import data, releasing
sweep = releasing.sweep
def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def armed(folder):
    sweep(folder)
    patch(sys.argv[2], killed).start()
releasing.sweep = armed
print(data.change("data.dvc", sys.argv[1], dataset.append))
"""


def add(folder: Path, stories: Path, killed_at: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", ADD, str(stories), killed_at],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_fresh_clone_with_a_remote_of_its_own_takes_another_data_set(
    clone: Path, stories: Path, tmp_path: Path
) -> None:
    shutil.rmtree(clone / "data")
    shutil.rmtree(clone / ".dvc" / "cache")
    dvc(clone, "remote", "add", "-d", "mine", str(tmp_path / "mine"))
    dataset.write(sample.examples("test", films=1), stories, "test")

    assert "train: 2 -> 2 stories, 2 added" in data.change("data.dvc", str(stories), dataset.adopt)

    assert len(dataset.load(clone / "data", "train")) == 2


@pytest.mark.server
@pytest.mark.parametrize("when", KILLS)
def test_a_killed_change_is_undone_or_complete(when: str, clone: Path, stories: Path) -> None:
    where, state = KILLS[when]
    before, files = data.identify(DataConfig()).md5, contents(clone / "data")

    killed = add(clone, stories, where)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    now = data.identify(DataConfig()).md5  # neither version counts as local changes
    assert (now == before) == (state == "before")
    if state == "before":
        assert contents(clone / "data") == files
    if state == "before":
        assert "train: 2 -> 4 stories, 2 added" in data.change("data.dvc", str(stories), dataset.append)
    else:
        with pytest.raises(DataError, match="already in data"):
            data.change("data.dvc", str(stories), dataset.append)
    assert len(dataset.load(clone / "data", "train")) == 4
    assert [path.name for path in clone.iterdir() if path.name.startswith(".data")] == []
    assert versioning.is_current(data.identify(DataConfig()))


def test_a_version_that_cannot_be_pushed_changes_nothing(
    clone: Path, stories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, files, named = data.identify(DataConfig()), contents(clone / "data"), (clone / "data.dvc").read_bytes()
    monkeypatch.setattr("dvc.data_cloud.DataCloud.push", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))

    with pytest.raises(DataError, match=r"nothing was changed: .*disk full"):
        data.change("data.dvc", str(stories), dataset.append)

    assert (contents(clone / "data"), (clone / "data.dvc").read_bytes()) == (files, named)
    assert data.identify(DataConfig()) == version
    assert [path.name for path in clone.iterdir() if path.name.startswith(".data")] == []


def test_what_belongs_into_one_commit_is_a_command_that_works(clone: Path, stories: Path) -> None:
    said = data.change("data.dvc", str(stories), dataset.append)

    command = said.rpartition("commit it: ")[2]
    assert command.startswith("git add data.dvc store && git commit -m ")
    run(clone, "git", "config", "user.email", "t@example.org")
    run(clone, "git", "config", "user.name", "t")
    run(clone, "bash", "-ec", command)
    run(clone, "git", "clone", "-q", str(clone), str(clone.parent / "other"))
    dvc(clone.parent / "other", "pull")
    assert len(dataset.load(clone.parent / "other" / "data", "train")) == 4


def test_a_remote_elsewhere_is_pushed_to_once_and_only_the_dvc_file_is_left_to_commit(
    clone: Path, stories: Path, tmp_path: Path
) -> None:
    dvc(clone, "remote", "add", "-d", "--force", "shared", str(tmp_path / "elsewhere"))
    dvc(clone, "push")

    said = data.change("data.dvc", str(stories), dataset.append)

    assert "git add data.dvc && git commit" in said
    assert said.count("pushed") == 1
    shutil.rmtree(clone / "data")
    shutil.rmtree(clone / ".dvc" / "cache")
    pull(DataConfig())
    assert len(dataset.load(clone / "data", "train")) == 4


def test_the_first_version_of_a_folder_is_made_and_ignored_by_git(clone: Path, stories: Path) -> None:
    source = clone.parent / "source"
    shutil.copytree(clone / "data", source)

    said = data.change("mine.dvc", str(source), dataset.adopt)

    assert "git add mine.dvc .gitignore store && git commit" in said
    assert "/mine" in (clone / ".gitignore").read_text().splitlines()
    assert versioning.is_current(data.identify(DataConfig(target="mine.dvc")))
    dvc(clone, "status", "mine.dvc")


def test_an_older_version_in_the_work_tree_is_brought_up_to_date(clone: Path, stories: Path) -> None:
    old = {path: path.read_bytes() for path in clone.glob("data*") if path.is_file()}
    shutil.copytree(clone / "data", clone.parent / "old")
    data.change("data.dvc", str(stories), dataset.append)
    commit(clone, "a colleague's version")
    new = data.identify(DataConfig())
    # As `git pull` leaves it: the new DVC file beside the files of the older version.
    for cache in ("kept", "cleared"):
        if cache == "cleared":
            shutil.rmtree(clone / ".dvc" / "cache")
        shutil.rmtree(clone / "data")
        shutil.copytree(clone.parent / "old", clone / "data")

        assert data.identify(DataConfig()) == new
        pull(DataConfig())

        assert versioning.is_current(new)
        shutil.rmtree(runs.root() / "pull")  # fetch again
    assert old.keys() == {clone / "data.dvc"}


def test_stories_join_the_version_that_git_brought_not_the_older_one(clone: Path, stories: Path) -> None:
    one, two = list(dataset.load(stories, "train"))
    for name, example in (("one", one), ("two", two)):
        dataset.write([example], clone.parent / name, "train")
    shutil.copytree(clone / "data", clone.parent / "old")
    data.change("data.dvc", str(clone.parent / "one"), dataset.append)
    shutil.rmtree(clone / "data")
    shutil.copytree(clone.parent / "old", clone / "data")

    said = data.change("data.dvc", str(clone.parent / "two"), dataset.append)

    assert "train: 3 -> 4 stories, 1 added" in said


def test_local_changes_are_refused_by_name(clone: Path, stories: Path) -> None:
    examples = list(dataset.load(clone / "data", "test"))
    dataset.write([replace(examples[0], story="mine"), *examples[1:]], clone / "data", "test")
    (clone / "data" / "notes.txt").write_text("mine")
    (clone / "data" / "train-00000-of-00001.parquet").unlink()
    expected = r"\(changed: test-00000-of-00001.parquet; new: notes.txt; missing: train-00000-of-00001.parquet\)"

    with pytest.raises(DataError, match=rf"data differs from the version in data\.dvc {expected}: keep your changes"):
        data.identify(DataConfig())


def test_a_folder_that_is_no_version_yet_is_not_replaced(clone: Path, stories: Path) -> None:
    (clone / "mine").mkdir()
    (clone / "mine" / "work.txt").write_text("mine")
    with pytest.raises(DataError, match=r"mine has files that are not a version yet: keep them with `dvc add mine`"):
        data.change("mine.dvc", str(clone / "data"), dataset.adopt)


def test_the_names_of_dvc_are_used_as_checked(clone: Path, stories: Path) -> None:
    repo = versioning.repository()
    out = repo.find_outs_by_path("data")[0]
    assert compat.is_cached(out.local_cache, out.hash_info.value)
    assert not compat.is_cached(out.local_cache, "0" * 32 + ".dir")
    assert compat.tree(out, str(clone / "data")).hash_info == out.hash_info
    assert releasing.to_commit(data.identify(DataConfig()), first=False).startswith("git add data.dvc store")
