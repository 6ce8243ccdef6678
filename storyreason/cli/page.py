"""The verbs `storyreason page` and `storyreason stats`."""

import json
import re
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from storyreason.cli.options import Split
from storyreason.errors import DataError, ModelError


def page(
    path: Annotated[
        Path, typer.Argument(help="A data set (folder of parquet shards), or answers: .txt files, jsonl, parquet.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write: one page per story, and an index.")],
    data: Annotated[Path | None, typer.Option(help="For answers: the data set they were written for.")] = None,
    split: Annotated[Split, typer.Option(help="The split of the data.")] = "test",
    story: Annotated[list[str] | None, typer.Option(help="Only this story. Repeatable.")] = None,
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


def stats(
    data: Annotated[Path, typer.Argument(help="A data set: a folder of parquet shards.")],
    out: Annotated[Path, typer.Option(help="The page to write. The same data is written beside it as JSON.")],
    split: Annotated[Split, typer.Option(help="The split of the data.")] = "train",
    tokenizer: Annotated[
        Path | None, typer.Option(help="A model folder, to measure text lengths in its tokens.")
    ] = None,
) -> None:
    """Describe a data set: distributions, entities across images, grounded pronouns, tags, drift of boxes."""
    from storyreason import dataset, runs
    from storyreason.dataset.stats import describe
    from storyreason.page.report import report

    if out.suffix != ".html":
        raise DataError(f"--out {out} is not a page: name a file that ends in .html.")
    found = describe(dataset.load(data, split), _counter(tokenizer) if tokenizer else None)
    runs.write_text(out, report(found, f"{data.resolve().name}: {split} stories"))
    runs.write_text(out.with_suffix(".json"), json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    typer.echo(f"{found['stories']} stories: {out.absolute()}, {out.with_suffix('.json').name} beside it")


def _counter(folder: Path) -> Callable[[str], int]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"The tokenizer of {folder} cannot be loaded ({error}): name a model folder.") from error
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _views(path: Path, data: Path | None, split: Split, stories: list[str] | None) -> Iterator[dict[str, Any]]:
    from storyreason import dataset, pictures, predictions
    from storyreason.format import answer
    from storyreason.page import view

    told: dict[str, str] | None = None
    if not _is_data(path, split):
        told = predictions.load(path)
        if data is None:
            raise DataError(f"{path} holds answers without their frames: name the data set with --data.")
    examples = dataset.load(path if data is None else data, split)
    known = examples.story_ids()
    wanted = dict.fromkeys(stories or (told if told is not None else known))
    missing = wanted.keys() - set(known)
    if missing:
        raise DataError(
            f"The {split} split has no story {min(missing)!r} ({len(missing)} of {len(wanted)} are missing): "
            "name the data and split the answers belong to."
        )
    untold = [story_id for story_id in wanted if told is not None and story_id not in told]
    if untold:
        raise DataError(f"{path} has no answer for story {untold[0]!r}: name one of the {len(told or ())} it has.")
    for place, story_id in enumerate(known):
        if story_id not in wanted:
            continue
        example = examples[place]
        reference = answer.join(example.chain_of_thought, example.story)
        images = pictures.each(pictures.canonical, example.images, story_id)  # none that breaks off
        yield view(story_id, images, told[story_id] if told is not None else None, reference)


def _is_data(path: Path, split: Split) -> bool:
    from storyreason import dataset

    try:
        return bool(dataset.shards(path, split))
    except DataError:
        return False


def _file_name(story_id: str, taken: Container[str]) -> str:
    """The file name of a story's page: `a/b` and `a b` become `a_b.html` and `a_b-2.html`."""
    stem = re.sub(r"[^\w.-]+", "_", story_id).strip("._")[:100] or "story"
    stem = f"{stem}_" if stem.casefold() == "index" else stem
    name, number = f"{stem}.html", 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}.html"
    return name
