"""`storyreason score`: a model's answers against the data, alone or against another model's."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from storyreason.cli.options import Format, Protocol, Split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from storyreason.scoring import Difference, Scorecard


def score(
    predictions: Annotated[
        Path, typer.Argument(help="A folder of {story_id}.txt, or a jsonl or parquet file with story_id, prediction.")
    ],
    data: Annotated[Path, typer.Option(help="The data set: a folder of parquet shards.")],
    split: Annotated[Split, typer.Option(help="The split the predictions belong to.")] = "test",
    protocol: Annotated[
        Protocol,
        typer.Option(help="strict: validity, grounding, identity, references. paper: as published, with language."),
    ] = "strict",
    against: Annotated[
        Path | None, typer.Option(help="Another model's predictions, to compare story by story.")
    ] = None,
    format: Annotated[Format, typer.Option(help="Output format.")] = "table",
    out: Annotated[
        Path | None, typer.Option(help="A JSON file to write the result to, including the scores of each story.")
    ] = None,
    meteor: Annotated[bool, typer.Option(help="Compute METEOR, which takes most of the paper protocol's time.")] = True,
) -> None:
    """Score a model's answers, with 95 % intervals and a control; with --against, test each difference to another model."""
    from storyreason import runs
    from storyreason.predictions import load
    from storyreason.scoring import compare

    told = [load(path) for path in (predictions, against) if path]  # all is read before anything is scored
    card = _card(predictions, told[0], data, split, protocol, meteor)
    other = _card(against, told[1], data, split, protocol, meteor) if against else None
    differences = compare(card, other) if other else {}
    if out:
        result = {**_as_json(card, differences), "stories": card.table()}
        runs.write_text(out, json.dumps(result, ensure_ascii=False, indent=2) + "\n")
    if format == "json":
        typer.echo(json.dumps(_as_json(card, differences), ensure_ascii=False, indent=2))
    else:
        _print(card, other, differences)


def _card(
    path: Path, told: "Mapping[str, str]", data: Path, split: Split, protocol: Protocol, meteor: bool
) -> "Scorecard":
    from rich.console import Console
    from rich.progress import track

    from storyreason import dataset
    from storyreason.scoring import Reference
    from storyreason.scoring import score as score_all

    examples = dataset.load(data, split)
    shown = track(
        examples, f"scoring {path}", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    )
    return score_all(map(Reference.of, shown), told, protocols=(protocol,), meteor=meteor)


def _as_json(card: "Scorecard", differences: "dict[str, Difference]") -> dict[str, Any]:
    from storyreason.scoring import control

    intervals, labels, controlled = card.intervals(), control.labels(card), control.controlled(card)
    scores: dict[str, dict[str, Any]] = {}
    for name, value in card.metrics().items():
        scores[name] = {"value": value, "low": intervals[name][0], "high": intervals[name][1], "label": labels[name]}
        if one := controlled.get(name):
            scores[name]["control"] = {"value": one.controlled, "low": one.low, "high": one.high, "above": one.above}
    result: dict[str, Any] = {
        "story_count": len(card.story_ids),
        "missing": int(card.total("missing")),
        "scores": scores,
    }
    if _is_strict(card):
        pairs = card.controls[control.REFERENCE].instead if card.controls else {}
        result["control"] = {
            "what": control.CONTROLS[control.REFERENCE],
            "stories": len(pairs),
            "left_out": len(card.story_ids) - len(pairs),
            "pairs": dict(pairs),
        }
    if differences:
        result["against"] = {
            name: {"other": d.b, "gain": d.gain, "low": d.low, "high": d.high, "real": d.real}
            for name, d in differences.items()
        }
    return result


def _is_strict(card: "Scorecard") -> bool:
    return "grounding/matched" in card.columns


def _print(card: "Scorecard", other: "Scorecard | None", differences: "dict[str, Difference]") -> None:
    from rich.console import Console
    from rich.table import Table

    from storyreason.scoring import control

    # A pipe has no width: make it wide enough to keep each row on one line.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    table = Table("Score", "Value", "95 % interval", "Other films")
    if other:
        for head in ("Other", "Difference", "95 % interval", "Real?"):
            table.add_column(head)
    left_out = _fill(table, card, differences)
    console.print(table)
    for which, scored in (("", card), ("of the other ", other)):
        missing = int(scored.total("missing")) if scored else 0
        if missing:
            console.print(f"{missing} predictions {which}are missing and count as empty answers.")
    if _is_strict(card):
        pairs = len(card.controls[control.REFERENCE].instead) if card.controls else 0
        console.print(
            f"Other films: the score {control.CONTROLS[control.REFERENCE]} with as many frames, and its upper bound; "
            f"{pairs} stories have one, {len(card.story_ids) - pairs} do not. Empty: text-only."
        )
    console.print(f"{len(card.story_ids)} stories. {left_out} more scores with --format json or --out.")


def _fill(table: "Table", card: "Scorecard", differences: "dict[str, Difference]") -> int:
    """Add a row for each main score and for each rule that some answer breaks. Returns the number of scores left out."""
    from storyreason.scoring import control
    from storyreason.scoring.catalogue import SCORES

    intervals, controlled = card.intervals(), control.controlled(card)
    left_out = 0
    for name, value in card.metrics().items():
        change = differences.get(name)
        broken = "/rule_pass_rate/" in name and (value < 1 or (change is not None and change.b < 1))
        score = SCORES[name]
        if not (broken or score.level != "detail" or name.startswith("paper/")):
            left_out += 1
            continue
        low, high = intervals[name]
        wrong = controlled.get(name)
        kept = f"{score.text(wrong.controlled)} (to {score.text(wrong.high)})" if wrong else ""
        cells = [name, score.text(value), f"{score.text(low)} to {score.text(high)}", kept]
        if change:
            gain, least, most = (score.text(one, signed=True) for one in (change.gain, change.low, change.high))
            cells += [score.text(change.b), gain, f"{least} to {most}"]
            cells.append("yes" if change.real else "no")
        table.add_row(*cells)
    return left_out
