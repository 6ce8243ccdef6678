"""The verb `storyreason page`."""

import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from storyreason.errors import DataError


def page(
    path: Annotated[
        Path, typer.Argument(help="A data set (folder of parquet shards), or answers: .txt files, jsonl, parquet.")
    ],
    out: Annotated[Path, typer.Option(help="The folder where the pages are written, one per story and an index.")],
    data: Annotated[Path | None, typer.Option(help="For answers: the data set they tell.")] = None,
    split: Annotated[Literal["train", "test"], typer.Option(help="The split of the data.")] = "test",
    story: Annotated[list[str] | None, typer.Option(help="Only this story; may be given several times.")] = None,
) -> None:
    """Show stories as pages: frames with boxes, tables, tagged text; answers beside their reference."""
    from storyreason import page as pages
    from storyreason import runs

    cards: dict[str, str] = {}  # by file name
    for view in _views(path, data, split, story):
        name = _file_name(view["id"], cards)
        runs.write_text(out / name, pages.render([view], view["id"]))
        cards[name] = pages.card(view, name)
    index = out / "index.html"
    runs.write_text(index, pages.index(list(cards.values()), f"{path.resolve().name}: {split} stories"))
    typer.echo(f"{len(cards)} {'page' if len(cards) == 1 else 'pages'}: {index.absolute()}")


def _views(path: Path, data: Path | None, split: str, stories: list[str] | None) -> Iterator[dict[str, Any]]:
    from storyreason import answer, dataset, predictions
    from storyreason.page import view

    told: dict[str, str] | None = None
    if not _is_data(path, split):
        told = predictions.load(path)
        if data is None:
            raise DataError(f"{path} holds answers, whose frames are in a data set: name it with --data.")
    examples = dataset.load(path if data is None else data, split)
    known = examples.story_ids()
    wanted = dict.fromkeys(stories or (told if told is not None else known))
    missing = wanted.keys() - set(known)
    if missing:
        raise DataError(
            f"The {split} split has no story {min(missing)!r} ({len(missing)} of {len(wanted)} are missing): "
            "name the data and the split that were told."
        )
    untold = [story_id for story_id in wanted if told is not None and story_id not in told]
    if untold:
        raise DataError(
            f"{path} has no answer for story {untold[0]!r}: name one of the {len(told or ())} that it tells."
        )
    for place, story_id in enumerate(known):
        if story_id not in wanted:
            continue
        example = examples[place]
        reference = answer.join(example.chain_of_thought, example.story)
        yield view(story_id, example.images, told[story_id] if told is not None else None, reference)


def _is_data(path: Path, split: str) -> bool:
    from storyreason import dataset

    try:
        return bool(dataset.shards(path, split))
    except DataError:
        return False


def _file_name(story_id: str, taken: Container[str]) -> str:
    """A story's page: its ID with what no file system minds. `a/b` and `a b` become `a_b.html` and `a_b-2.html`."""
    stem = re.sub(r"[^\w.-]+", "_", story_id).strip("._")[:100] or "story"
    stem = f"{stem}_" if stem.casefold() == "index" else stem
    name, number = f"{stem}.html", 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}.html"
    return name
