"""`storyreason sample`: makes the sample data and the tiny base model again."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make the sample world's data or its tiny base model again.", no_args_is_help=True)


@app.command()
def data(
    out: Annotated[Path, typer.Option(help="Folder for the parquet shards; shards of the same splits are replaced.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 7,
    train_films: Annotated[int | None, typer.Option(min=1, help="Films of two stories each; 480 if not given.")] = None,
    test_films: Annotated[int | None, typer.Option(min=1, help="Films of two stories each; 30 if not given.")] = None,
) -> None:
    """Draw and tell the sample world's films: train and test shards in the Hub's layout."""
    from storyreason import dataset, sample
    from storyreason.sample.world import Part

    wanted: tuple[tuple[Part, int | None], ...] = (("train", train_films), ("test", test_films))
    for part, films in wanted:
        paths = dataset.write(sample.examples(part, seed, films), out, part, shard_rows=240)
        typer.echo(f"{part}: {len(dataset.load(out, part))} stories in {', '.join(map(str, paths))}")


@app.command()
def base(
    out: Annotated[Path, typer.Option(help="Model folder; replaced when it is there.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of 16 frames.")] = 1800,
    seed: Annotated[int, typer.Option(help="Decides first weights and frames.")] = 0,
    processes: Annotated[int, typer.Option(min=1, max=16, help="Processes of one thread each.")] = 2,
) -> None:
    """Make the tiny base model: taught on single frames to see, name and place in Qwen's JSON style."""
    from storyreason.sample.base import train

    for progress in train(out, steps, seed, processes):
        typer.echo(str(progress))
