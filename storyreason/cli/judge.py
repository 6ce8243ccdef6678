"""`storyreason judge`: a language model compares a model's stories with the data's, and is itself examined."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from storyreason.cli.options import Format, Split
from storyreason.errors import ConfigError

if TYPE_CHECKING:
    from storyreason.authoring.config import AuthoringConfig
    from storyreason.judging import Report


def judge(
    predictions: Annotated[
        Path, typer.Argument(help="A folder of {story_id}.txt, or a jsonl or parquet file with story_id, prediction.")
    ],
    data: Annotated[Path, typer.Option(help="The data set: a folder of parquet shards.")],
    endpoint: Annotated[str, typer.Option(help="The OpenAI-compatible address of the model that judges.")],
    model: Annotated[str, typer.Option(help="The model's name there.")],
    split: Annotated[Split, typer.Option(help="The split the predictions belong to.")] = "test",
    stories: Annotated[int | None, typer.Option(min=1, help="Judge the first N stories only.")] = None,
    planted: Annotated[
        int,
        typer.Option(min=0, help="Examine the judge with so many of the data's stories, in which faults are planted."),
    ] = 10,
    ratings: Annotated[
        Path | None,
        typer.Option(help="People's ratings: a CSV file with rater, story_id and a column for each rubric, 1 to 5."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="A folder for report and replies: a reply that is there is not paid again.")
    ] = Path("judged"),
    api_key: Annotated[str | None, typer.Option(envvar="STORYREASON_API_KEY", help="API key of the endpoint.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 always takes the likeliest token.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=64, help="Longest reply in tokens.")] = 1024,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at a time.")] = 4,
    price_in: Annotated[float, typer.Option(min=0, help="What a million tokens of a request cost.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="What a million tokens of a reply cost.")] = 0.0,
    max_cost: Annotated[float | None, typer.Option(help="What it may cost in all; needs prices.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling and of the planted faults.")] = 0,
    format: Annotated[Format, typer.Option(help="Output format.")] = "table",
) -> None:
    """Have a language model judge stories beside the data's; says how far it agrees with itself, planted faults and people."""
    from storyreason import judging, runs
    from storyreason.authoring.calls import Author, Budget
    from storyreason.cli.progress import told
    from storyreason.judging import given, rubric

    sent = {"temperature": temperature, "max_tokens": max_tokens, "concurrency": concurrency, "seed": seed}
    paid = {"price_in": price_in, "price_out": price_out, "max_cost": max_cost}
    config = _config(endpoint=endpoint, model=model, **sent, **paid)
    people = given.ratings(ratings) if ratings else None
    examples = given.examples(data, split, stories)
    candidates = [*given.of_predictions(predictions, examples), *given.with_faults(examples, planted, seed)]
    budget = Budget(config, limit="--max-cost")
    with told("comparisons") as tell:
        author = Author(config, out / "replies", budget, api_key)
        judgements = judging.judge(author, candidates, concurrency, partial(tell, f"{model} judges"))
    found, spent = judging.report(candidates, judgements, people), asdict(budget.total())
    lines = (json.dumps(asdict(one), ensure_ascii=False) for one in judgements)
    runs.write_text(out / "judgements.jsonl", "".join(f"{line}\n" for line in lines))
    asked = {"model": model, "prompt": rubric.PROMPT, "prompt_identity": rubric.identity()}
    report = json.dumps({**asked, **asdict(found), "spent": spent}, indent=2) + "\n"
    runs.write_text(out / "report.json", report)
    if format == "json":
        typer.echo(report, nl=False)
    else:
        _print(found, spent)


def _config(**given: Any) -> "AuthoringConfig":
    """The settings of the endpoint's client. Raises ConfigError in the words of the options."""
    from pydantic import ValidationError

    from storyreason.authoring.config import AuthoringConfig

    if given["max_cost"] is not None and not (given["price_in"] or given["price_out"]):
        raise ConfigError("--max-cost needs --price-in and --price-out, per million tokens.")
    try:
        return AuthoringConfig(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        option = str(fault["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{option} = {fault['input']!r}: {fault['msg']}.") from None


def _print(found: "Report", spent: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    # A pipe has no width: make it wide enough to keep each row on one line.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, soft_wrap=True)
    counts = list(found.planted)
    table = Table(
        "Rating, 1 to 5", "predictions", "the data's", *(f"{count} faults" for count in counts), "rank corr.", "alpha"
    )
    for name, rating in found.ratings.items():
        cells = [rating, found.other[name], *(found.planted[count][name] for count in counts)]
        cells += [found.correlation[name], found.alpha.get(name)]
        table.add_row(name, *map(_number, cells))
    console.print(table)
    if found.preferred:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found.preferred.items())
        console.print(f"preferred: {shares}")
    console.print(
        f"the same preference when the stories change places: {_share(found.agrees_swapped)}, when it is asked again: "
        f"{_share(found.agrees_repeated)}; for the story that came first: {_share(found.first)}"
    )
    console.print(f"rank correlation of the mean rating with the planted faults: {_number(found.correlation['all'])}")
    refused = sum(found.refused.values())
    console.print(f"{found.judged} comparisons of {found.stories} stories count, {refused} were refused")
    for why, count in found.refused.items():
        console.print(f"  {count}: {why}", markup=False)
    console.print(
        f"{spent['calls']} requests, {spent['prompt_tokens']:,} tokens in and {spent['tokens']:,} out, cost {spent['cost']:.4f}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
