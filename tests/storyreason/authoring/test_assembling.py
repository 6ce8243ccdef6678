"""What was written becomes a data set in the published layout, which passes its own check, with a card."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from storyreason import dataset
from storyreason.authoring.assembling import FilmStories, assemble, contact_sheet
from storyreason.authoring.calls import Author, Budget
from storyreason.authoring.config import AuthoringConfig
from storyreason.authoring.windows import recognized, windows
from storyreason.authoring.writing import LeftOut, write
from storyreason.cli import app
from storyreason.errors import DataError
from storyreason.perception import frames
from tests.storyreason.authoring import films, scripted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films.write(tmp_path_factory.mktemp("films"), films=3)


@pytest.fixture(scope="module")
def told(folder: Path) -> list[FilmStories]:
    """The stories of three films."""
    seen = recognized(folder / "detections.parquet", folder / "ids.parquet")
    found = []
    with scripted.endpoint() as endpoint:
        config = AuthoringConfig(endpoint=endpoint.url, grammars=False, price_in=1, price_out=2)
        for film in frames.films(folder):
            budget = Budget(config)
            shots = seen.shots(list(frames.read(folder, film)))
            made = windows(shots)
            written = write(Author(config, folder / "calls", budget), config, made.windows)
            found.append(FilmStories.of(shots, made, written, budget.spent))
    return found


def test_it_passes_the_check_and_keeps_film_scene_seconds_and_source(
    folder: Path, told: list[FilmStories], tmp_path: Path
) -> None:
    assemble(
        {one.film: folder for one in told},
        told,
        tmp_path / "out",
        0.34,
        {"licence": "cc-by-4.0", "Author": "a scripted one"},
    )

    checked = CliRunner().invoke(app, ["check", str(tmp_path / "out")])
    assert checked.exit_code == 0, checked.output
    splits = {split: dataset.load(tmp_path / "out", split) for split in dataset.SPLITS}
    assert {split: len(found) for split, found in splits.items()} == {"train": 4, "test": 2}
    origins = {split: {one.origin.film for one in found if one.origin} for split, found in splits.items()}
    assert len(origins["test"]) == 1 and not origins["test"] & origins["train"]
    (first, *_) = splits["train"]
    assert first.origin is not None and first.origin.source == (f"{first.origin.film}.mp4",) * len(first.images)
    kept = {(one.scene, one.frame): one for one in frames.read(folder, first.origin.film)}
    for place, image, seconds in zip(
        zip(first.origin.scene, first.origin.frame, strict=True), first.images, first.origin.seconds, strict=True
    ):
        assert kept[place].image == image and kept[place].seconds == seconds

    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n") and "path: test-*.parquet" in card
    dataset.adopt(tmp_path / "data", tmp_path / "out")
    assert (tmp_path / "data" / "README.md").read_text() == card
    assert dataset.load(tmp_path / "data", "train")[0] == first
    assert "6 stories of 3 films" in card and "- Author: a scripted one" in card and "red-lantern-482.mp4" in card


def test_the_same_films_in_another_order_give_the_same_bytes(
    folder: Path, told: list[FilmStories], tmp_path: Path
) -> None:
    again = [FilmStories.from_json(one.to_json()) for one in reversed(told)]
    assert list(reversed(again)) == told
    for name, films_ in (("one", told), ("other", again)):
        assemble({one.film: folder for one in told}, films_, tmp_path / name, 0.34, {})
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "other")]
    assert files[0] == files[1] and "No licence was named: do not publish" in files[0]["README.md"].decode()


def test_what_is_left_out_is_counted_and_a_film_alone_is_for_training(
    folder: Path, told: list[FilmStories], tmp_path: Path
) -> None:
    out = LeftOut(told[0].stories[1].story_id, "story", "tag-unclosed", "…")
    one = replace(told[0], stories=told[0].stories[:1], left_out=(out,))
    assemble({one.film: folder for one in told}, [one], tmp_path, 0.15, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "train-00000-of-00001.parquet"]
    assert "- story, `tag-unclosed`: 1" in (tmp_path / "README.md").read_text()

    with pytest.raises(DataError, match=r"No film gave a story, most often because of tag-unclosed \(…\)"):
        assemble({one.film: folder for one in told}, [replace(one, stories=())], tmp_path, 0.15, {})


def test_a_film_of_any_name_has_a_row_in_the_card_until_it_is_withdrawn(
    folder: Path, told: list[FilmStories], tmp_path: Path
) -> None:
    kept, named = tmp_path / "kept", "the | red\nlantern"
    film = told[0].film
    frames.write(kept / frames.FILE, [replace(one, film=named) for one in frames.read(folder, film)])
    stories = tuple(replace(one, story_id=f"{named}-{at}") for at, one in enumerate(told[0].stories))
    every = [replace(told[0], film=named, stories=stories), *told[1:]]
    assemble({**{one.film: folder for one in told}, named: kept}, every, tmp_path / "out", 0.34, {})
    rows = [line for line in (tmp_path / "out" / "README.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 4 and sum(line.startswith("| the \\| red lantern | ") for line in rows) == 1

    dataset.withdraw(tmp_path / "out", named)

    left = [line for line in (tmp_path / "out" / "README.md").read_text().splitlines() if line.startswith("| ")]
    assert left == [line for line in rows if "red lantern" not in line]


def test_a_contact_sheet_has_every_frame_and_entity(folder: Path) -> None:
    seen = recognized(folder / "detections.parquet", folder / "ids.parquet")
    page = contact_sheet("red-lantern-482", seen.shots(list(frames.read(folder, "red-lantern-482"))))
    assert page.count("data:image/jpeg;base64,") == 12
    assert '"entity":"char1","label":"person","box":[147,35,182,112],"probability":null' in page
