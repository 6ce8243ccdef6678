"""The data of a run: pulled once, checked, and changed only by a new version that is announced."""

import contextlib
import io
import json
import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prefect.logging import disable_run_logger

from storyreason import dataset, model, sample
from storyreason.config import DataConfig, RunConfig
from storyreason.dataset.changing import Put
from storyreason.errors import DataError, ModelError
from tasks import data, versioning
from tasks.data import Base
from tasks.results import Fitted, Pulled
from tests.tasks.cloned import clone, commit, dvc, origin, pull, pushed, run, stories  # noqa: F401 (fixtures)
from tests.tiny import tiny_base, tiny_bases, tiny_examples  # noqa: F401 (fixtures)

# ruff: noqa: F811 (the same as arguments)


def test_when_two_flows_fetch_a_version_the_second_waits_and_both_get_it_whole(
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
        first = pool.submit(data.pull.compute, version, check=False)
        assert fetched.wait(timeout=60)
        pulls = [data.pull.compute(version, check=False), first.result()]

    for pulled in pulls:
        names = sorted(path.name for path in pulled.folder.iterdir())
        assert names == ["train-v1.parquet", "train-v2.parquet"]
    assert "waiting for another flow that pulls data.dvc" in caplog.text


def test_added_stories_are_a_new_version_that_another_clone_can_pull(clone: Path, stories: Path) -> None:
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


def test_stories_of_another_format_are_added_and_a_source_that_breaks_off_changes_nothing(
    clone: Path, stories: Path, tmp_path: Path
) -> None:
    file, new = tmp_path / "new.jsonl", list(dataset.load(stories, "train"))
    rows = [{**asdict(one), "images": [f"{one.story_id}-{n}.jpg" for n, _ in enumerate(one.images)]} for one in new]
    for row, one in zip(rows, new, strict=True):
        for name, image in zip(row["images"], one.images, strict=True):
            (tmp_path / name).write_bytes(image)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    last = tmp_path / rows[-1]["images"][-1]
    picture = last.read_bytes()
    last.unlink()
    before = data.identify(DataConfig()).md5

    with pytest.raises(DataError, match=rf"new\.jsonl, story {new[-1].story_id}: the picture .* cannot be read"):
        data.change("data.dvc", str(file), dataset.append)
    assert data.identify(DataConfig()).md5 == before and not list(clone.glob(".data*"))
    last.write_bytes(picture)
    assert "train: 2 -> 4 stories, 2 added" in data.change("data.dvc", str(file), dataset.append)

    assert list(dataset.load(clone / "data", "train"))[2:] == new
    with pytest.raises(DataError, match=rf"2 stories of {file} are already in data"):
        data.change("data.dvc", str(file), dataset.append)


def test_stories_added_during_a_run_do_not_affect_the_run(clone: Path, stories: Path) -> None:
    with disable_run_logger():
        pulled = data.pull.compute(data.identify(DataConfig()))

    data.change("data.dvc", str(stories), dataset.append)

    assert len(dataset.load(pulled.folder, "train")) == 2
    assert len(dataset.load(clone / "data", "train")) == 4
    assert data.identify(DataConfig()).md5 != pulled.folder.name == pulled.md5


@pytest.mark.parametrize("told", [True, False], ids=["a new version", "not yet a version"])
def test_stories_added_during_the_pull_do_not_affect_the_run(
    clone: Path, stories: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    version, kept = data.identify(DataConfig()), versioning.keep

    def late(version: versioning.DataVersion) -> Path:
        if told:
            data.change("data.dvc", str(stories), dataset.append)
        else:
            dataset.append(clone / "data", stories)
        return kept(version)

    monkeypatch.setattr(versioning, "keep", late)
    with disable_run_logger():
        pulled = data.pull.compute(version)

    assert len(dataset.load(clone / "data", "train")) == 4
    assert len(dataset.load(pulled.folder, "train")) == 2


def test_stories_that_cannot_be_used_are_left_out_and_named(
    clone: Path, stories: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("storyreason.dataset.checking.MAX_BAD", 0.5)
    monkeypatch.setattr(data, "get_run_logger", lambda: logging.getLogger("run"))
    first, second = dataset.load(clone / "data", "test")
    dataset.write([replace(first, images=(b"no picture", *first.images[1:])), second], clone / "data", "test")
    dvc(clone, "add", "data")
    dvc(clone, "push")

    pulled = data.pull.compute(data.identify(DataConfig()))

    assert list(data.stories_to_tell(DataConfig(), pulled)) == [second]
    assert f"1 of 2 test stories left out: test story {first.story_id}, image 1: the picture does not" in caplog.text
    with pytest.raises(DataError, match=r"No test story of data\.dvc can be used"):
        data.stories_to_tell(DataConfig(test_stories=1), pulled)


def test_what_the_base_cannot_take_is_found_before_training(
    stories: Path, clone: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("storyreason.dataset.checking.MAX_BAD", 0.5)
    monkeypatch.setattr("storyreason.imagefiles.MAX_RATIO", 1000)  # another base may take less than any picture has
    monkeypatch.setattr(data, "get_run_logger", lambda: logging.getLogger("run"))
    picture = io.BytesIO()
    Image.new("RGB", (4000, 10)).save(picture, "PNG")
    first, second = dataset.load(clone / "data", "test")
    thin = replace(first, images=(picture.getvalue(), *first.images[1:]))
    dataset.write([thin, replace(second, story=f"{second.story}<|im_end|>")], clone / "data", "test")
    pulled = Pulled((str(clone / "data"),), md5="0" * 32, rev=None, card="# Data\n", faulty_test_stories={})
    base = Base(str(tiny_base), "0123456789abcdef")

    fitted = data._fitting(pulled, data.fit.compute(RunConfig(), pulled, base))

    assert list(fitted.faulty_test_stories) == [first.story_id]
    assert "image 1: the base model cannot take a picture of 4000 x 10 pixels" in caplog.text
    assert f"1 stories contain <|im_end|>, which the base treats as special ({second.story_id} first)" in fitted.card
    asked = RunConfig.model_validate({"generation": {"request": "Tell <|image_pad|> it."}})
    with pytest.raises(DataError, match=r"The request contains <\|image_pad\|>"):
        data.fit.compute(asked, pulled, base)


def test_a_base_under_dvc_is_the_version_that_its_file_names(
    clone: Path, stories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.model_validate({"base": {"name": "base"}})
    monkeypatch.setattr(data, "pull", data.pull.compute)
    monkeypatch.setattr(data, "fit", lambda *_: Fitted((), {}, []))
    monkeypatch.setattr(data, "get_run_logger", lambda: logging.getLogger("run"))
    found: list[Base] = []
    (clone / "base").mkdir()
    for version in ("a", "b"):  # A run with each of two versions
        (clone / "base" / "config.json").write_text(version)
        dvc(clone, "add", "base")
        dvc(clone, "push")
        commit(clone, f"base {version}")
        found.append(data.pull_all(config)[1])
    run(clone, "git", "checkout", "-q", "HEAD~1", "base.dvc")

    again = data.pull_all(config)[1]

    assert again == found[0] and again.identity != found[1].identity
    assert (Path(again.folder) / "config.json").read_text() == "a"
    # Replaced during a training, it is what the training began with
    assert model.load_identity(found[1].folder) == found[1].identity


def test_nothing_is_fetched_for_a_base_that_does_not_exist(clone: Path, stories: Path) -> None:
    shutil.rmtree(clone / "data")
    config = RunConfig.model_validate({"base": {"name": "./nowhere"}})
    with pytest.raises(ModelError, match=r"There is no base model folder \./nowhere"):
        data.pull_all(config)
    assert not (clone / "data").exists()


def test_two_concurrent_additions_lose_no_stories(clone: Path, stories: Path) -> None:
    first, second = clone.parent / "first", clone.parent / "second"
    for folder, one in zip((first, second), list(sample.examples("train", films=4))[-2:], strict=True):
        dataset.write([one], folder, "train")
    together = threading.Barrier(2, timeout=60)

    def slowly(folder: Path, place: Path, put: Put) -> dataset.Change:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(timeout=3)  # only without the lock both come here
        return dataset.append(folder, place, put)

    with ThreadPoolExecutor(2) as pool:
        adding = [pool.submit(data.change, "data.dvc", str(folder), slowly) for folder in (first, second)]
        for change in adding:
            change.result()

    assert len(dataset.load(clone / "data", "train")) == 4


def test_local_changes_are_not_mixed_into_a_new_version(clone: Path, stories: Path) -> None:
    (clone / "data" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="dvc add data"):
        data.change("data.dvc", str(stories), dataset.append)


def test_a_source_that_does_not_exist_is_named(clone: Path, stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="'nobody/nothing' is not a folder here"):
        data.change("data.dvc", "nobody/nothing", dataset.adopt)


def test_without_a_prefect_server_announcing_fails(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    md5 = data.identify(DataConfig()).md5
    with pytest.raises(
        DataError, match=rf"{md5[:8]} was not announced: no Prefect server is known. Run `storyreason up`"
    ):
        data.announce("data.dvc")
