"""The list of what was withdrawn keeps stories out, and travels with the data."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from storyreason import dataset, sample
from storyreason.dataset import withdrawn
from storyreason.dataset.withdrawn import FILE, Place, Withdrawn
from storyreason.errors import DataError
from storyreason.format import analysis


def with_origin(example: dataset.Example, scene: int = 1) -> dataset.Example:
    """A story of sample films that says its frames."""
    film, count = example.story_id.rpartition("-")[0], len(example.images)
    frames = tuple(range(100 * scene, 100 * scene + count))
    return replace(example, origin=dataset.Origin(film, (scene,) * count, frames, (None,) * count, ("a",) * count))


@pytest.fixture
def stories() -> dict[str, list[dataset.Example]]:
    return {"train": list(sample.examples("train", films=2)), "test": list(sample.examples("test", films=2))}


def written(folder: Path, stories: dict[str, list[dataset.Example]]) -> Path:
    for split, examples in stories.items():
        dataset.write(examples, folder, split)
    return folder


def ids(folder: Path) -> set[str]:
    return {name for split in dataset.SPLITS for name in dataset.load(folder, split).story_ids()}


def test_a_story_is_out_if_a_picture_of_it_shows_them_whatever_its_ids(
    stories: dict[str, list[dataset.Example]],
) -> None:
    example = with_origin(stories["test"][0])
    entity = next(row.id for row in analysis.read(example.chain_of_thought)[0].sections[0].entities if row.box)
    where = withdrawn.places(example, entity)
    film = withdrawn.film_of(example)
    assert where and where[0].frame == 100 and (where[0].width, where[0].height) == dataset.sizes(example)[0]
    known = Withdrawn(film=film, entity="char99", places=tuple(where))
    assert known.shown_by(example) and not known.shown_by(with_origin(example, scene=2))
    assert example.origin is not None
    recut = replace(example, origin=replace(example.origin, scene=(9,) * len(example.images)))
    assert known.shown_by(recut)  # cut elsewhere, the frame is the same
    (damaged,) = withdrawn.places(replace(example, images=(b"none", *example.images[1:])), entity)[:1]
    assert damaged == Place(scene=where[0].scene, frame=where[0].frame, box=where[0].box)
    assert not Withdrawn(film="another", entity=entity, places=tuple(where)).shown_by(example)
    # Stories that do not say their frames, by the ID or by name.
    bare = replace(example, origin=None)
    assert withdrawn.places(bare, entity) == []
    assert Withdrawn(film=film, entity=entity, places=tuple(where)).shown_by(bare)
    assert Withdrawn(film=film, entity="char99", stories=(bare.story_id,)).shown_by(bare)
    assert not Withdrawn(film=film, entity="char99").shown_by(bare)


def test_what_is_withdrawn_neither_comes_back_nor_is_forgotten(
    stories: dict[str, list[dataset.Example]], tmp_path: Path
) -> None:
    whole = written(tmp_path / "new", stories)
    (tmp_path / "data").mkdir()
    dataset.adopt(tmp_path / "data", whole)
    film = withdrawn.film_of(stories["train"][0])
    gone = {one.story_id for one in stories["train"] if withdrawn.film_of(one) == film}
    assert 0 < len(gone) < len(stories["train"])

    dataset.withdraw(tmp_path / "data", film)
    assert withdrawn.read(tmp_path / "data") == [Withdrawn(film=film)]
    change = dataset.append(tmp_path / "data", written(tmp_path / "more", {"train": [
        *(one for one in stories["train"] if one.story_id in gone),
        *(one for one in sample.examples("train", films=3) if withdrawn.film_of(one) not in {
            withdrawn.film_of(other) for other in stories["train"]}),
    ]}))  # fmt: skip
    assert set(change.withdrawn) == gone and change.added["train"] and not gone & ids(tmp_path / "data")
    assert f"{len(gone)} stories left out, as they show what was withdrawn" in change.summary()

    change = dataset.adopt(tmp_path / "data", whole)
    assert set(change.withdrawn) == gone and ids(tmp_path / "data") == ids(whole) - gone
    assert withdrawn.read(tmp_path / "data") == [Withdrawn(film=film)]
    assert set(dataset.as_dataset(tmp_path / "data", "train")["story_id"]) <= ids(tmp_path / "data")

    # The list of another data set comes along with its stories.
    (tmp_path / "third").mkdir()
    dataset.adopt(tmp_path / "third", tmp_path / "data")
    assert withdrawn.read(tmp_path / "third") == [Withdrawn(film=film)]
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    change = dataset.append(tmp_path / "data", written(tmp_path / "only", {"train": [
        one for one in stories["train"] if one.story_id in gone]}))  # fmt: skip
    assert change.nothing and set(change.withdrawn) == gone
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()} == before


def test_the_only_film_of_a_split_can_be_withdrawn_while_others_can_be_divided(
    stories: dict[str, list[dataset.Example]], tmp_path: Path
) -> None:
    films = sorted({withdrawn.film_of(one) for one in stories["train"]})
    assert len(films) == 2
    only = withdrawn.film_of(stories["test"][0])
    three = {"train": stories["train"], "test": [one for one in stories["test"] if withdrawn.film_of(one) == only]}
    folder = written(tmp_path / "three", three)
    rows = [f"| {film} | train | 1 |" for film in films] + [f"| {only} | test | 1 |"]
    (folder / "README.md").write_text("\n".join(["# Stories", "", *rows, ""]))

    change = dataset.withdraw(folder, only)

    assert change.moved and not dataset.check(folder).bad
    split_of = {withdrawn.film_of(one): split for split in dataset.SPLITS for one in dataset.load(folder, split)}
    assert sorted(split_of.values()) == ["test", "train"] and set(split_of) == set(films)
    card = (folder / "README.md").read_text()
    assert only not in card and all(f"| {film} | {split} | 1 |" in card for film, split in split_of.items())

    left = ids(folder)
    for film in films:
        with pytest.raises(DataError, match="left with stories that cannot be divided: it needs those of one film for"):
            dataset.withdraw(folder, film)
        assert ids(folder) == left


def test_a_film_goes_from_the_card_with_the_last_of_its_stories_that_show_someone(
    stories: dict[str, list[dataset.Example]], tmp_path: Path
) -> None:
    films = list(dict.fromkeys(withdrawn.film_of(one) for one in stories["train"]))
    first, second = (one for one in stories["train"] if withdrawn.film_of(one) == films[0])
    texts = (second.chain_of_thought, second.story)
    analysed, told = (text.replace("char1", "char9") for text in texts)
    other = replace(second, chain_of_thought=analysed, story=told)
    rest = [one for one in stories["train"] if withdrawn.film_of(one) != films[0]]
    folder = written(tmp_path / "data", {"train": [first, other, *rest], "test": stories["test"]})
    head, *rows = ["| film | split | stories |", *(f"| {film} | train | 2 |" for film in films)]
    card = folder / "README.md"
    card.write_text("\n".join(["# Stories", "", head, *rows, ""]))

    dataset.withdraw(folder, films[0], "char1")
    assert f"\n{rows[0]}\n" in card.read_text() and other.story_id in ids(folder)
    dataset.withdraw(folder, films[0], "char9")

    assert films[0] not in {withdrawn.film_of(one) for one in dataset.load(folder, "train")}
    assert rows[0] not in card.read_text() and f"\n{head}\n{rows[1]}\n" in card.read_text()
    assert re.findall("Stories withdrawn after it was made: .*", card.read_text()) == [
        "Stories withdrawn after it was made: 2."
    ]


def test_a_data_set_that_is_divided_again_says_it_once(
    stories: dict[str, list[dataset.Example]], tmp_path: Path
) -> None:
    every = list(sample.examples("train", films=3))
    (folder := tmp_path / "data").mkdir()
    dataset.adopt(folder, written(tmp_path / "new", {"train": every}))
    (first,) = {withdrawn.film_of(one) for one in dataset.load(folder, "test")}
    card = folder / "README.md"
    assert card.read_text().count("## Splits") == 1 and first in card.read_text()
    card.write_text(card.read_text() + "\n## Thanks\n\nTo all.\n")

    dataset.withdraw(folder, first)

    (second,) = {withdrawn.film_of(one) for one in dataset.load(folder, "test")}
    told = card.read_text()
    assert told.count("## Splits") == 1 and told.count("It had no test split") == 1
    assert f"1 of 2 films are for test, chosen by a hash of their names: {second}" in told
    assert first not in told and "## Thanks\n\nTo all.\n" in told and "Stories withdrawn after it was made:" in told


def test_who_is_in_no_story_is_listed_if_they_are_known(
    stories: dict[str, list[dataset.Example]], tmp_path: Path
) -> None:
    folder = written(tmp_path / "data", stories)
    where = [Place(scene=1, frame=2, box=(1, 2, 3, 4))]
    assert dataset.withdraw(folder, "clara", "char7").nothing and not (folder / FILE).exists()
    dataset.withdraw(folder, "clara", "char7", places=where, known=True)
    assert withdrawn.read(folder) == [Withdrawn(film="clara", entity="char7", places=tuple(where))]
    dataset.withdraw(folder, "clara", known=True)
    assert (folder / FILE).read_text() == '{"film":"clara"}\n'  # which covers its people


@pytest.mark.parametrize("line", ["no JSON", "[]", "{}", '{"film": ""}', '{"film": "a", "faces": []}', "\udcff"])
def test_a_damaged_list_is_named_with_its_line(line: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'{"film": "a"}\n\n' + line.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"withdrawn\.jsonl, line 3, does not say what was withdrawn"):
        withdrawn.read(tmp_path)
