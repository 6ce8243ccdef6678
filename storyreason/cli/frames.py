"""`storyreason frames`: the frames of films that a data set is made of."""

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer


def frames(
    films: Annotated[
        list[Path],
        typer.Argument(help="Videos, folders or archives of pictures, and folders of these. Each is a film."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write. A run that was interrupted there goes on.")],
    per_scene: Annotated[int, typer.Option(min=1, help="Frames of a scene, at most.")] = 3,
    longest_side: Annotated[int, typer.Option(min=64, help="Pixels: larger frames are made smaller.")] = 1280,
) -> None:
    """Cut films into scenes, and keep the sharp frames of each that differ."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from storyreason.perception import filming
    from storyreason.perception.choosing import LEFT_OUT

    console, told = Console(stderr=True, highlight=False), time.monotonic()
    tasks = {}
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True,
                  disable=not sys.stderr.isatty()) as progress:  # fmt: skip

        def tell(film: str, done: int, all: int) -> None:
            nonlocal told
            if film not in tasks:
                tasks[film] = progress.add_task(film, total=all)
            progress.update(tasks[film], completed=done)
            if progress.disable and time.monotonic() - told > 30:
                told = time.monotonic()
                console.print(f"{film}: {done} of {all} frames", markup=False)

        settings = filming.Settings(per_scene, longest_side)
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
