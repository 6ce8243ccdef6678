"""`storyreason frames`: the frames of films that a data set is made of."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from storyreason.cli import progress


def frames(
    films: Annotated[
        list[Path],
        typer.Argument(
            help="Videos, folders or archives of pictures, and folders of these, each a film; or a data set like "
            "GroundCap, on the Hub or in a folder."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write. A run that was interrupted there goes on.")],
    per_scene: Annotated[int, typer.Option(min=1, help="Frames of a scene, at most.")] = 3,
    longest_side: Annotated[int, typer.Option(min=64, help="Pixels: larger frames are made smaller.")] = 1280,
    cuts: Annotated[
        str,
        typer.Option(
            help="What finds the cuts of videos: scenedetect; or `transnetv2:FOLDER`, a network that finds dissolves too, as "
            "`make transnet` fetches it."
        ),
    ] = "scenedetect",
    device: Annotated[str, typer.Option(help="Where that network runs: cpu, or cuda.")] = "cpu",
) -> None:
    """Cut films into scenes, and keep the sharp frames of each that differ."""
    from storyreason.perception import filming
    from storyreason.perception.choosing import LEFT_OUT

    with progress.told("frames") as tell:
        settings = filming.Settings(per_scene, longest_side, cuts, device)
        reports, left_out = filming.extract(films, out, settings, tell)
    for sentence in (*left_out, *(report.problem for report in reports if report.problem)):
        typer.echo(sentence, err=True)
    reasons = Counter[str]()
    for report in reports:
        reasons.update(report.left_out)
    if reasons.total():
        why = "; ".join(f"{count:,} {LEFT_OUT[reason]}" for reason, count in sorted(reasons.items()) if count)
        typer.echo(f"left out: {why}", err=True)
    kept, seen, scenes = (sum(getattr(report, name) for report in reports) for name in ("kept", "seen", "scenes"))
    typer.echo(f"{len(reports)} films, {scenes:,} scenes: {kept:,} of {seen:,} frames in {out}")
