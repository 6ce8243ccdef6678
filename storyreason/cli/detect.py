"""`storyreason detect`: people and things in the frames of films, with faces and looks."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from storyreason.cli import progress
from storyreason.errors import DataError


def detect(
    frames: Annotated[Path, typer.Argument(help="The folder that `storyreason frames` wrote.")],
    out: Annotated[Path, typer.Option(help="The parquet file to write, which `storyreason identify` reads.")],
    detector: Annotated[
        str,
        typer.Option(
            help="A panoptic model's folder or Hub ID; with --names a Grounding DINO; `nanodet:FOLDER`: NanoDet, as "
            "`make nanodet` fetches it; `faces`: people whose face is seen; `truth:FOLDER`: that of `sample film`, with noise."
        ),
    ],
    names: Annotated[
        str, typer.Option(help="What to look for, separated by commas: `person, dog, landmark: clock tower`.")
    ] = "",
    stuff: Annotated[
        str,
        typer.Option(help="Classes of a panoptic model that are stuff, separated by commas, where it does not say."),
    ] = "",
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="The least score. Default: 0.7, of Grounding DINO 0.3, of NanoDet 0.4."),
    ] = None,
    faces: Annotated[Literal["dlib", "none"], typer.Option(help="What finds and embeds faces.")] = "dlib",
    looks: Annotated[
        str, typer.Option(help="An embedding model's folder or Hub ID (SigLIP 2, DINOv2), or `histogram`: colours.")
    ] = "histogram",
    batch: Annotated[int, typer.Option(min=1, help="Frames that the detector is given at a time.")] = 8,
    device: Annotated[str, typer.Option(help="Where the models run: cpu, or cuda.")] = "cpu",
) -> None:
    """Find people and things in frames, their faces, and what they look like: a row for each."""
    from storyreason.perception import detecting, detectors
    from storyreason.perception import looks as lookers

    chosen = detectors.named(detector, _list(names), _list(stuff), threshold, device)
    finder, looker = detectors.finder(chosen) if faces == "dlib" else None, lookers.named(looks, device)
    with progress.told("frames") as tell:
        report = detecting.detect(frames, out, chosen, looker, finder, batch, tell)
    if not report.detections:
        raise DataError(
            f"Nothing was found in the {report.frames} frames of {frames}: try another detector or threshold."
        )
    if why := "; ".join(f"{count:,} {reason}" for reason, count in sorted(report.left_out.items()) if count):
        typer.echo(f"left out: {why}", err=True)
    typer.echo(
        f"{report.films} films, {report.frames:,} frames: {report.detections:,} detections, {report.faces:,} with a face, "
        f"in {out}"
    )


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
