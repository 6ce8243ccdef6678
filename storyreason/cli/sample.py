"""`storyreason sample`: recreate the sample data and the tiny base model."""

from pathlib import Path
from typing import Annotated

import typer

from storyreason.cli.options import refuse_other_contents

VOCABULARY = 1536
"""Tokens of an untrained base, as many as the tiny base has: the sample's stories are as long for both."""

app = typer.Typer(help="Recreate the sample world's data or its tiny base model.", no_args_is_help=True)


@app.command()
def data(
    out: Annotated[
        Path, typer.Option(help="Folder for the parquet shards. Existing shards of the same splits are replaced.")
    ],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 7,
    train_films: Annotated[int | None, typer.Option(min=1, help="Films of two stories each. Default: 480.")] = None,
    test_films: Annotated[int | None, typer.Option(min=1, help="Films of two stories each. Default: 30.")] = None,
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
    out: Annotated[Path, typer.Option(help="The model folder to write. An existing model folder is replaced.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of 16 frames.")] = 1800,
    text_tokens: Annotated[
        int,
        typer.Option(
            min=0,
            help="Tokens of texts in each step of the parts that teach it to look back; 0: no such parts.",
        ),
    ] = 4096,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights and the lessons.")] = 0,
    processes: Annotated[int, typer.Option(min=1, max=16, help="On a CPU: processes, each with one thread.")] = 2,
    device: Annotated[str, typer.Option(help="Where to train: cpu, or cuda.")] = "cpu",
) -> None:
    """Train the tiny base model: to see, name and locate objects in Qwen's JSON style, and to look back into texts."""
    from storyreason.sample.teaching import train

    refuse_other_contents(out)
    for progress in train(out, steps, text_tokens, seed, processes, device=device):
        typer.echo(str(progress))


@app.command()
def untrained(
    out: Annotated[Path, typer.Option(help="The model folder to write. An existing model folder is replaced.")],
    family: Annotated[str, typer.Option(help="The `model_type` of its configuration, such as qwen3_vl.")] = "qwen3_vl",
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
) -> None:
    """Write an untrained tiny model of a family, to try the pipeline on that family: it trains, and tells nonsense."""
    from storyreason import architecture, runs
    from storyreason.errors import ConfigError
    from storyreason.sample import untrained
    from storyreason.sample.base import vocabulary_texts

    if family not in architecture.FAMILIES:
        raise ConfigError(f"--family {family} is none: name one of {', '.join(architecture.FAMILIES)}.")
    refuse_other_contents(out)
    beside = out.with_name(f".{out.name}.writing")
    texts = vocabulary_texts()
    runs.replace(out, untrained.write_from(beside, texts, seed, family, wide=True, vocabulary=VOCABULARY))
    typer.echo(f"{out}: an untrained {architecture.FAMILIES[family].name}")


@app.command()
def film(
    out: Annotated[Path, typer.Option(help="Folder for the video and its truth, a JSON file.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same film.")] = 7,
    shots: Annotated[int, typer.Option(min=1, help="Shots, of one to two seconds each.")] = 12,
) -> None:
    """Film the sample world: a video whose cuts, and what each frame shows, are known."""
    from storyreason.sample import movie

    video, truth = movie.write(out, seed, shots)
    typer.echo(f"{video}: {shots} shots; their truth is in {truth}")
