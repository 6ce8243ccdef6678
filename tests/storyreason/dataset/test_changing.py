"""Changes to a data set: stories are added, duplicates rejected, differences reported."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from storyreason import dataset, pictures, runs, sample
from storyreason.cli import app
from storyreason.dataset.checking import odd_in, odd_told
from storyreason.errors import DataError
from tests.storyreason.odd import PICTURES, Odd, exif, saved

TRAIN = list(sample.examples("train", films=4))
TEST = list(sample.examples("test", films=2))


def made(folder: Path, train: list[dataset.Example], test: list[dataset.Example]) -> Path:
    for split, examples in (("train", train), ("test", test)):
        if examples:
            dataset.write(examples, folder, split, shard_rows=3)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return made(tmp_path / "data", TRAIN[:4], TEST[:2])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_new_stories_join_as_new_shards_and_old_shards_keep_their_bytes(data: Path, tmp_path: Path) -> None:
    before = [path.read_bytes() for path in dataset.shards(data, "train")]

    change = dataset.append(data, made(tmp_path / "new", TRAIN[4:], TEST[2:]))

    assert [path.read_bytes() for path in dataset.shards(data, "train")][: len(before)] == before
    assert [path.name for path in dataset.shards(data, "train")] == [
        f"train-{n:05d}-of-00003.parquet" for n in range(3)
    ]
    assert dataset.load(data, "train").story_ids() == [example.story_id for example in TRAIN]
    assert dataset.load(data, "test").story_ids() == [example.story_id for example in TEST]
    assert change.added == {"train": tuple(e.story_id for e in TRAIN[4:]), "test": tuple(e.story_id for e in TEST[2:])}
    assert "train: 4 -> 8 stories, 4 added" in change.summary()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "new"]


def test_the_card_counts_what_was_added_after_it_was_made(data: Path, tmp_path: Path) -> None:
    card = data / "README.md"
    card.write_text("# Stories\n\nOf films.\n")

    for number, (train, test) in enumerate([(TRAIN[4:6], []), (TRAIN[6:], TEST[2:])]):
        dataset.append(data, made(tmp_path / f"new{number}", train, test))

    count = len(TRAIN) - 4 + len(TEST) - 2
    assert card.read_text() == f"# Stories\n\nOf films.\n\nStories added after it was made: {count}.\n"


def test_one_split_alone_can_join(data: Path, tmp_path: Path) -> None:
    change = dataset.append(data, made(tmp_path / "new", TRAIN[4:6], []))
    assert change.after == {"train": 6, "test": 2}


def test_a_story_that_is_there_is_refused_in_any_split(data: Path, tmp_path: Path) -> None:
    before = contents(data)
    for number, (train, test) in enumerate((([TRAIN[0]], []), ([], [TRAIN[0]]))):
        with pytest.raises(DataError, match=f"already in .*data .{TRAIN[0].story_id}"):
            dataset.append(data, made(tmp_path / f"new{number}", train, test))
    assert contents(data) == before


def test_a_film_stays_in_its_split(data: Path, tmp_path: Path) -> None:
    film = TRAIN[0].story_id.rpartition("-")[0]
    with pytest.raises(DataError, match=f"film {film} has stories in train"):
        dataset.append(data, made(tmp_path / "new", [], [replace(TEST[2], story_id=f"{film}-9")]))


def test_bad_stories_are_refused_and_nothing_changes(data: Path, tmp_path: Path) -> None:
    before = contents(data)
    with pytest.raises(DataError, match="does not decode"):
        dataset.append(data, made(tmp_path / "new", [replace(TRAIN[5], images=(b"\xff\xd8nothing",))], []))
    assert contents(data) == before


def films(count: int) -> list[dataset.Example]:
    """Copies of the stories of one film each."""
    return [replace(TRAIN[number % len(TRAIN)], story_id=f"new{number}-1") for number in range(count)]


def test_the_addition_is_judged_by_itself(data: Path, tmp_path: Path) -> None:
    made(data, films(300), TEST[:2])  # of all stories, one bad one in two would be less than 1 %
    before = contents(data)
    bad = replace(TRAIN[0], images=(b"", *TRAIN[0].images[1:]))
    with pytest.raises(DataError, match=rf"new: 1 of 2 stories are bad.*train story {bad.story_id}, image 1"):
        dataset.append(data, made(tmp_path / "new", [bad, TRAIN[1]], []))
    assert contents(data) == before


def test_the_few_bad_stories_of_an_addition_are_left_out_and_named(data: Path, tmp_path: Path) -> None:
    new = films(120)
    new[7] = replace(new[7], story="")

    change = dataset.append(data, made(tmp_path / "new", new, []))

    assert "1 bad stories not added: train story new7-1: `story` is empty" in change.summary()
    assert change.after["train"] == 4 + 119
    assert "new7-1" not in dataset.load(data, "train").story_ids()


def test_the_bad_stories_of_a_new_data_set_are_named(data: Path, tmp_path: Path) -> None:
    new = films(120)
    new[7] = replace(new[7], story="")
    change = dataset.adopt(data, made(tmp_path / "new", new, TEST[2:]))
    assert "1 stories cannot be used: train story new7-1: `story` is empty" in change.summary()


def test_what_is_wrong_with_a_source_names_the_source_and_changes_nothing(data: Path, tmp_path: Path) -> None:
    before = contents(data)
    empty = made(tmp_path / "empty", TRAIN, [])
    dataset.write([], empty, "test")
    with pytest.raises(DataError, match=r"empty has no stories in its test split"):
        dataset.adopt(data, empty)
    other = made(tmp_path / "other", TRAIN, TEST)
    shard = dataset.shards(other, "train")[0]
    table = pq.read_table(shard)
    pq.write_table(table.set_column(0, "story_id", pa.array(range(len(table)))), shard)
    for change in (dataset.adopt, dataset.append):
        with pytest.raises(DataError, match=r"other/train-00000-of-00003\.parquet has `story_id` of type int64"):
            change(data, other)
    assert contents(data) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "empty", "other"]


def test_texts_of_windows_are_stored_as_any_other(data: Path, tmp_path: Path) -> None:
    odd = [replace(one, story="\ufeff" + one.story.replace("\n", "\r\n")) for one in TRAIN]

    dataset.append(data, made(tmp_path / "new", odd[4:], []))
    dataset.adopt(tmp_path / "other", made(tmp_path / "whole", odd, TEST))

    for folder in (data, tmp_path / "other"):
        assert [one.story for one in dataset.load(folder, "train")] == [one.story for one in TRAIN]
        stored = pq.read_table(dataset.shards(folder, "train")[-1])["story"].to_pylist()
        assert not any("\r" in text or "\ufeff" in text for text in stored)


@pytest.mark.parametrize("can", [True, False], ids=["in one step", "in two"])
def test_a_folder_takes_the_place_of_another(can: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can:
        monkeypatch.setattr(runs, "_swapped", lambda one, other: False)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").touch()
    runs.replace(tmp_path / "old", tmp_path / "new")
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "new.txt"]


def test_an_empty_folder_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with pytest.raises(DataError, match="has no stories"):
        dataset.append(data, tmp_path / "new")


def test_another_data_set_takes_the_place_of_one_and_the_report_says_what_differs(data: Path, tmp_path: Path) -> None:
    rewritten = replace(TRAIN[1], story=TRAIN[1].story + "\n")
    source = made(tmp_path / "new", [rewritten, *TRAIN[2:4], TRAIN[4], TEST[0]], TEST[1:2])

    change = dataset.adopt(data, source)

    assert contents(data) == contents(source)
    assert change.rewritten["train"] == (TRAIN[1].story_id,)
    assert change.removed["train"] == (TRAIN[0].story_id,)
    assert change.added["train"] == (TRAIN[4].story_id,)
    assert change.moved == (TEST[0].story_id,)
    assert "another split" in change.summary()
    assert dataset.adopt(data, source, lambda *_: pytest.fail("nothing to put")).summary() == "nothing changed"


def test_without_data_before_all_is_new(tmp_path: Path) -> None:
    change = dataset.adopt(tmp_path / "data", made(tmp_path / "new", TRAIN[:2], TEST[:1]))
    assert change.before == {"train": 0, "test": 0}
    assert len(change.added["train"]) == 2


def stored(folder: Path, split: str = "train") -> list[bytes]:
    """The bytes of the pictures in the files."""
    return [image for example in dataset.load(folder, split, raw=True) for image in example.images]


def with_odd(example: dataset.Example, name: str) -> dataset.Example:
    """The example with its first frame as an odd picture, of its size once turned."""
    width, height = dataset.sizes(example)[0]
    upright = Image.open(io.BytesIO(example.images[0])).transpose(Image.Transpose.ROTATE_90)
    assert upright.size == (height, width)
    frame = saved(upright, "JPEG", quality=95, exif=exif(6)) if name == "turned" else PICTURES[name].encoded
    return replace(example, images=(frame, *example.images[1:]))


def raw(examples: list[dataset.Example], folder: Path, split: str) -> None:
    """Writes examples as other programs do, whatever their pictures."""
    dataset.write([replace(one, images=(), frame_count=len(one.images)) for one in examples], folder, split)
    (file,) = dataset.shards(folder, split)
    table = pq.read_table(file)
    images = [[{"bytes": image, "path": "as.it.was"} for image in example.images] for example in examples]
    place = table.schema.get_field_index("images")
    field = table.schema.field(place)
    pq.write_table(table.set_column(place, field, pa.array(images, field.type)), file)


def test_what_comes_in_is_stored_turned_and_its_boxes_fit(data: Path, tmp_path: Path) -> None:
    odd = with_odd(TRAIN[4], "turned")
    raw([odd], tmp_path / "new", "train")
    before = stored(data)

    assert dataset.append(data, tmp_path / "new").left_out == (), "judged as it will be stored"

    assert stored(data)[: len(before)] == before
    first, *others = stored(data)[len(before) :]
    assert first == pictures.canonical(odd.images[0]) != odd.images[0]
    assert tuple(others) == odd.images[1:]
    assert dataset.sizes(dataset.load(data, "train")[4]) == dataset.sizes(TRAIN[4])
    assert dataset.check(data).bad == ()


def test_an_import_changes_odd_pictures_and_nothing_else(tmp_path: Path) -> None:
    odd = [with_odd(TRAIN[0], "turned"), *TRAIN[1:4]]
    raw(odd, tmp_path / "new", "train")
    raw(TEST[:2], tmp_path / "new", "test")
    dataset.adopt(tmp_path / "data", tmp_path / "new")

    assert stored(tmp_path / "data")[0] == pictures.canonical(odd[0].images[0])
    assert stored(tmp_path / "data")[1:] == stored(tmp_path / "new")[1:]
    (came,), (went,) = dataset.shards(tmp_path / "new", "train"), dataset.shards(tmp_path / "data", "train")
    assert pq.read_schema(came).equals(pq.read_schema(went), check_metadata=True)
    without = [name for name in pq.read_schema(came).names if name != "images"]
    assert pq.read_table(came, columns=without).equals(pq.read_table(went, columns=without))
    paths = [[one["path"] for one in row] for row in pq.read_table(went).column("images").to_pylist()]
    assert {path for row in paths for path in row} == {"as.it.was"}
    (came,), (went,) = dataset.shards(tmp_path / "new", "test"), dataset.shards(tmp_path / "data", "test")
    assert came.read_bytes() == went.read_bytes(), "a shard of ordinary pictures keeps its bytes"


@pytest.mark.parametrize("name", [name for name, odd in PICTURES.items() if odd.why])
def test_a_version_from_before_keeps_its_stored_pixels(tmp_path: Path, name: str) -> None:
    odd = PICTURES[name]
    raw([replace(TRAIN[0], images=(odd.encoded,))], tmp_path, "train")

    (example,) = dataset.load(tmp_path, "train")

    expected = odd.pixels if odd.stored is None else odd.stored
    (picture,) = pictures.open_frames(example.images, example.story_id)
    assert (np.asarray(picture) == expected).all()
    assert dataset.sizes(example) == [picture.size]
    assert pictures.odd(example.images[0]) == (), "engines and pages get these pixels, too"
    assert stored(tmp_path) == [odd.encoded], "and the files stay as they are"


def test_odd_pictures_of_a_version_from_before_are_named(tmp_path: Path) -> None:
    made(tmp_path, TRAIN[:1], TEST[:1])
    raw([with_odd(TRAIN[0], "turned")], tmp_path, "train")
    report = dataset.check(tmp_path)
    assert report.odd == {"turned": 1}
    assert (
        "- 1 picture has an orientation tag (turned): their pixels, and boxes in them, are taken" in report.markdown()
    )
    result = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert "1 picture has an orientation tag (turned)" in result.stdout
    listed = json.loads(CliRunner().invoke(app, ["check", str(tmp_path), "--format", "json"]).stdout)
    assert listed["odd_pictures"] == {"turned": 1}


@pytest.mark.parametrize(("name", "odd"), [(name, odd) for name, odd in PICTURES.items() if odd.why])
def test_every_kind_of_odd_picture_has_a_name_in_the_report(name: str, odd: Odd) -> None:
    counted = odd_in(replace(TRAIN[0], images=(odd.encoded, TRAIN[0].images[0])))
    assert counted == dict.fromkeys(odd.why, 1)
    assert all(f"({why})" in told for why, told in zip(counted, odd_told(counted), strict=True))
