"""Data under DVC: every version is pulled whole or refused with a sentence, and nobody's work is lost."""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from prefect.logging import disable_run_logger

from storyreason import dataset, sample
from storyreason.config import DataConfig
from storyreason.errors import DataError
from tasks import data
from tests import frozen


def run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})


def dvc(folder: Path, *arguments: str) -> None:
    run(folder, sys.executable, "-m", "dvc", "-q", *arguments)


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project with two versions of its data (`v1`, `v2`) in a store inside the repository."""
    origin = tmp_path_factory.mktemp("project")
    (origin / "data").mkdir()
    run(origin, "git", "init", "-q")
    dvc(origin, "init")
    dvc(origin, "remote", "add", "-d", "sample", "store")
    dvc(origin, "remote", "modify", "sample", "verify", "true")
    for version in ("v1", "v2"):
        (origin / "data" / f"train-{version}.parquet").write_text(version)
        dvc(origin, "add", "data")
        dvc(origin, "push")
        commit(origin, version)
        run(origin, "git", "tag", version)
    return origin


@pytest.fixture
def clone(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone of it: what git tracks, nothing pulled."""
    shutil.copytree(origin, tmp_path / "clone", ignore=shutil.ignore_patterns("cache", "tmp", "data"))
    monkeypatch.chdir(tmp_path / "clone")
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    return tmp_path / "clone"


def pull(config: DataConfig) -> list[str]:
    with disable_run_logger():
        manifest = data.pull.fn(data.identify(config), check=False)
    return sorted(path.name for path in Path(manifest["files"][0]).iterdir())


def test_a_fresh_clone_pulls_from_the_store_inside_it(clone: Path) -> None:
    assert pull(DataConfig()) == ["train-v1.parquet", "train-v2.parquet"]
    (written,) = clone.parent.glob("runs/pull/*/manifest.json")
    assert frozen.types(json.loads(written.read_text())) == frozen.manifest("pull")


def test_any_git_revision_of_the_data_can_be_used_and_the_work_tree_stays(clone: Path) -> None:
    assert pull(DataConfig(rev="v1")) == ["train-v1.parquet"]
    assert not (clone / "data").exists()


def test_of_two_that_fetch_a_version_at_a_time_the_second_waits_and_both_have_it_whole(
    clone: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dvc.fs import DVCFileSystem

    fetch, fetched, second = DVCFileSystem.get_file, threading.Event(), threading.Event()

    def slowly(self: DVCFileSystem, *arguments: Any, **options: Any) -> None:
        if fetched.is_set():
            second.set()  # only without the lock
        fetch(self, *arguments, **options)
        if not fetched.is_set():
            fetched.set()
            second.wait(timeout=3)

    monkeypatch.setattr(DVCFileSystem, "get_file", slowly)
    monkeypatch.setattr(data, "get_run_logger", lambda: logging.getLogger("run"))
    version = data.identify(DataConfig(rev="v2"))
    with ThreadPoolExecutor(2) as pool, caplog.at_level(logging.INFO, "run"):
        first = pool.submit(data.pull.fn, version, check=False)
        assert fetched.wait(timeout=60)
        manifests = [data.pull.fn(version, check=False), first.result()]

    for manifest in manifests:
        names = sorted(path.name for path in Path(manifest["files"][0]).iterdir())
        assert names == ["train-v1.parquet", "train-v2.parquet"]
    assert "waiting for another flow that pulls data.dvc" in caplog.text


def test_another_version_is_another_step(clone: Path) -> None:
    assert data.identify(DataConfig()).fingerprint != data.identify(DataConfig(rev="v1")).fingerprint


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
    with pytest.raises(DataError, match="root of a clone"):
        data.identify(DataConfig())


@pytest.fixture
def stories(clone: Path) -> Path:
    """The clone with a real data set in it, pushed; and a folder of stories that may join it, which is given."""
    train, test = list(sample.examples("train", films=2)), list(sample.examples("test", films=1))
    shutil.rmtree(clone / "data", ignore_errors=True)
    for split, examples in (("train", train[:2]), ("test", test)):
        dataset.write(examples, clone / "data", split)
    dvc(clone, "add", "data")
    dvc(clone, "push")
    commit(clone, "stories")
    dataset.write(train[2:], clone.parent / "new", "train")
    return clone.parent / "new"


def test_stories_that_join_are_a_new_version_that_another_clone_can_pull(clone: Path, stories: Path) -> None:
    before = data.identify(DataConfig()).md5
    shutil.rmtree(clone / "data")  # it is pulled first

    said = data.change("data.dvc", str(stories), dataset.append)

    assert "train: 2 -> 4 stories, 2 added" in said
    now = data.identify(DataConfig()).md5
    assert now != before and now[:8] in said
    shutil.rmtree(clone / "data")
    shutil.rmtree(clone / ".dvc" / "cache")
    pull(DataConfig())
    assert len(dataset.load(clone / "data", "train")) == 4
    with pytest.raises(DataError, match="already"):
        data.change("data.dvc", str(stories), dataset.append)
    assert data.identify(DataConfig()).md5 == now


def test_what_joins_during_a_run_does_not_reach_the_run(clone: Path, stories: Path) -> None:
    with disable_run_logger():
        manifest = data.pull.fn(data.identify(DataConfig()))
    pulled = Path(manifest["files"][0])

    data.change("data.dvc", str(stories), dataset.append)

    assert len(dataset.load(pulled, "train")) == 2
    assert len(dataset.load(clone / "data", "train")) == 4
    assert data.identify(DataConfig()).md5 != pulled.name == manifest["md5"]


@pytest.mark.parametrize("told", [True, False], ids=["a new version", "not yet a version"])
def test_what_joins_while_the_version_is_taken_up_does_not_reach_the_run(
    clone: Path, stories: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    version, kept = data.identify(DataConfig()), data._kept

    def late(version: data.DataVersion) -> Path:
        if told:
            data.change("data.dvc", str(stories), dataset.append)
        else:
            dataset.append(clone / "data", stories)
        return kept(version)

    monkeypatch.setattr(data, "_kept", late)
    with disable_run_logger():
        manifest = data.pull.fn(version)

    assert len(dataset.load(clone / "data", "train")) == 4
    assert len(dataset.load(manifest["files"][0], "train")) == 2


@pytest.mark.parametrize("kept_by", ["link", "copy", "copy of the work tree"])
def test_what_is_written_into_a_shard_afterwards_does_not_reach_the_run(
    clone: Path, stories: Path, monkeypatch: pytest.MonkeyPatch, kept_by: str
) -> None:
    version = data.identify(DataConfig())
    if kept_by == "copy":  # as where `runs/` is on another file system
        monkeypatch.setattr("tasks.data.os.link", Mock(side_effect=OSError))
    elif kept_by == "copy of the work tree":  # it is here, and DVC knows it, and nowhere else
        data._fetch_workspace(version)
        for place in (".dvc/cache", "store"):
            shutil.rmtree(clone / place)
    with disable_run_logger():
        manifest = data.pull.fn(version)
    (shard,) = (clone / "data").glob("train-*")
    (kept,) = Path(manifest["files"][0]).glob("train-*")
    before = kept.read_bytes()

    shutil.copyfile(next(stories.glob("train-*")), shard)  # into the file, not in its place

    assert shard.read_bytes() != before
    assert kept.read_bytes() == before
    assert (kept.stat().st_nlink > 1) == (kept_by == "link")


def test_stories_that_cannot_be_used_are_left_out_and_named(
    clone: Path, stories: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("storyreason.dataset.checking.MAX_BAD", 0.5)
    monkeypatch.setattr(data, "get_run_logger", lambda: logging.getLogger("run"))
    first, second = dataset.load(clone / "data", "test")
    dataset.write([replace(first, images=(b"no picture", *first.images[1:])), second], clone / "data", "test")
    dvc(clone, "add", "data")
    dvc(clone, "push")

    manifest = data.pull.fn(data.identify(DataConfig()))

    assert list(data.stories_to_tell(DataConfig(), manifest)) == [second]
    assert f"1 of 2 test stories left out: test story {first.story_id}, image 1: the picture does not" in caplog.text
    with pytest.raises(DataError, match=r"No test story of data\.dvc can be used"):
        data.stories_to_tell(DataConfig(test_stories=1), manifest)


def test_of_two_that_add_at_a_time_no_stories_are_lost(clone: Path, stories: Path) -> None:
    first, second = clone.parent / "first", clone.parent / "second"
    for folder, one in zip((first, second), list(sample.examples("train", films=4))[-2:], strict=True):
        dataset.write([one], folder, "train")
    together = threading.Barrier(2, timeout=60)

    def slowly(folder: Path, place: Path) -> dataset.Change:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(timeout=3)  # only without the lock both come here
        return dataset.append(folder, place)

    with ThreadPoolExecutor(2) as pool:
        adding = [pool.submit(data.change, "data.dvc", str(folder), slowly) for folder in (first, second)]
        for one in adding:
            one.result()

    assert len(dataset.load(clone / "data", "train")) == 4


def test_local_changes_are_not_mixed_into_a_new_version(clone: Path, stories: Path) -> None:
    (clone / "data" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="dvc add data"):
        data.change("data.dvc", str(stories), dataset.append)


def test_a_source_that_is_nowhere_is_named(clone: Path, stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="'nobody/nothing' is no folder here"):
        data.change("data.dvc", "nobody/nothing", dataset.adopt)


def test_a_version_that_nobody_hears_of_is_said_to_be_unannounced(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    md5 = data.identify(DataConfig()).md5
    with pytest.raises(
        DataError, match=rf"{md5[:8]} was not announced: no Prefect server is known. Run `storyreason up`"
    ):
        data.announce("data.dvc")
