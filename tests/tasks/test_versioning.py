"""Versions under DVC: each is pulled whole or refused with one sentence, and nobody's work is lost."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from prefect.logging import disable_run_logger

from storyreason.config import DataConfig
from storyreason.errors import DataError
from tasks import data, versioning
from tests import frozen
from tests.tasks.cloned import clone, dvc, origin, pull, pushed, stories  # noqa: F401 (fixtures)

# ruff: noqa: F811 (the same as arguments)


def test_a_fresh_clone_pulls_from_the_store_inside_it(clone: Path) -> None:
    assert pull(DataConfig()) == ["train-v1.parquet", "train-v2.parquet"]
    (written,) = clone.parent.glob("runs/pull/*/manifest.json")
    assert frozen.types(json.loads(written.read_text())) == frozen.manifest("pull")


def test_any_git_revision_of_the_data_can_be_used_and_the_work_tree_stays(clone: Path) -> None:
    assert pull(DataConfig(rev="v1")) == ["train-v1.parquet"]
    assert not (clone / "data").exists()


def test_another_version_is_another_step(clone: Path) -> None:
    assert data.fingerprint(data.identify(DataConfig())) != data.fingerprint(data.identify(DataConfig(rev="v1")))


def test_a_checkout_without_git_pulls_its_data_but_no_revisions(clone: Path) -> None:
    shutil.rmtree(clone / ".git")  # as in an image or an archive
    assert pull(DataConfig()) == ["train-v1.parquet", "train-v2.parquet"]
    with pytest.raises(DataError, match=r"data\.dvc cannot be read: .*Git"):
        data.identify(DataConfig(rev="v1"))


def test_local_changes_are_refused_and_kept(clone: Path) -> None:
    pull(DataConfig())
    (clone / "data" / "train-v3.parquet").write_text("mine")

    with pytest.raises(DataError, match="dvc add data"):
        data.identify(DataConfig())

    assert (clone / "data" / "train-v3.parquet").read_text() == "mine"


def test_an_unknown_revision_is_named(clone: Path) -> None:
    with pytest.raises(DataError, match="v9"):
        data.identify(DataConfig(rev="v9"))


def test_a_missing_dvc_file_says_where_to_start(clone: Path) -> None:
    with pytest.raises(DataError, match=r"no other\.dvc"):
        data.identify(DataConfig(target="other.dvc"))


@pytest.mark.parametrize("rev", [None, "v1"])
def test_a_remote_that_is_gone_is_named(clone: Path, rev: str | None) -> None:
    shutil.rmtree(clone / "store")
    with pytest.raises(DataError, match="does not exist: restore it"):
        pull(DataConfig(rev=rev))


@pytest.mark.parametrize("rev", [None, "v1"])
def test_what_the_default_remote_lacks_comes_from_another_one(clone: Path, tmp_path: Path, rev: str | None) -> None:
    dvc(clone, "remote", "add", "-d", "--force", "mine", str(tmp_path / "mine"))  # it is empty

    versioning.check_remote(data.identify(DataConfig(rev=rev)))

    assert "train-v1.parquet" in pull(DataConfig(rev=rev))


@pytest.mark.parametrize("rev", [None, "v1"])
def test_a_corrupt_object_is_never_accepted(clone: Path, rev: str | None) -> None:
    broken = 0
    for path in (clone / "store").rglob("*"):
        if path.is_file() and path.read_bytes() == b"v1":
            path.chmod(0o644)
            path.write_bytes(b"vv")
            broken += 1
    assert broken == 1

    with pytest.raises(DataError, match="corrupt"):
        pull(DataConfig(rev=rev))


def test_no_remote_at_all_says_how_to_set_one(clone: Path) -> None:
    dvc(clone, "remote", "remove", "sample")
    with pytest.raises(DataError, match="dvc remote add"):
        data.identify(DataConfig())


def test_outside_a_clone_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(DataError, match="start in a clone of the project"):
        data.identify(DataConfig())


@pytest.mark.parametrize("kept_by", ["link", "copy", "copy of the work tree"])
def test_writing_into_a_shard_afterwards_does_not_affect_the_run(
    clone: Path, stories: Path, monkeypatch: pytest.MonkeyPatch, kept_by: str
) -> None:
    version = data.identify(DataConfig())
    if kept_by == "copy":  # as where `runs/` is on another file system
        monkeypatch.setattr("tasks.versioning.os.link", Mock(side_effect=OSError))
    elif kept_by == "copy of the work tree":  # it is here, and DVC knows it, and nowhere else
        versioning.fetch(version)
        for place in (".dvc/cache", "store"):
            shutil.rmtree(clone / place)
    with disable_run_logger():
        pulled = data.pull.compute(version)
    (shard,) = (clone / "data").glob("train-*")
    (kept,) = pulled.folder.glob("train-*")
    before = kept.read_bytes()

    shutil.copyfile(next(stories.glob("train-*")), shard)  # into the file, not in its place

    assert shard.read_bytes() != before
    assert kept.read_bytes() == before
    assert (kept.stat().st_nlink > 1) == (kept_by == "link")
