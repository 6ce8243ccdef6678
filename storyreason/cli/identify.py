"""`storyreason identify`: which detections of films show the same person or thing."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from storyreason.cli import progress
from storyreason.cli.options import Method

if TYPE_CHECKING:
    from storyreason.perception import Correction, Entities, Film


def identify(
    detections: Annotated[
        Path,
        typer.Argument(help="A parquet file with a row for each detection: place, label, box, and embeddings if any."),
    ],
    out: Annotated[Path, typer.Option(help="The parquet file to write: film, detection, entity, probability.")],
    method: Annotated[
        Method,
        typer.Option(help="calibrated: probabilities, over the whole film. published: the rule of the published data."),
    ] = "calibrated",
    corrections: Annotated[
        Path | None, typer.Option(help="A file of corrections (merge, split), one JSON object on each line.")
    ] = None,
) -> None:
    """Recognize people and things again over the frames of films: an entity for each detection."""
    from storyreason import perception
    from storyreason.errors import ConfigError, DataError

    if corrections and method == "published":
        raise ConfigError("The published rule takes no corrections: leave out --corrections or --method published.")
    if out.is_dir() or out.absolute() == detections.absolute():
        raise DataError(f"--out {out} is {'a folder' if out.is_dir() else 'the input'}: name a new file.")
    _make_folder(out)
    given = perception.load_corrections(corrections) if corrections else []
    table = perception.Detections(detections)
    found, left_out = {}, list[str]()
    done = 0
    with progress.told("detections") as tell:
        for film in table:
            result, missed = _identify(film, method, given)
            found[film.name] = (film.ids, result.names, result.probabilities)
            left_out += missed
            done += len(film)
            tell("identifying", done, len(table))
    perception.write(out, table, found)
    for sentence in left_out:
        typer.echo(sentence, err=True)
    names = set(map(str, found))
    if elsewhere := sum(str(one.film) not in names for one in given):
        typer.echo(f"{elsewhere} of {len(given)} corrections are of films that {detections} does not have.", err=True)
    entities = [set(names) for _, names, _ in found.values()]
    people = sum(name.startswith("char") for names in entities for name in names)
    others = sum(map(len, entities)) - people
    typer.echo(f"{len(found)} films, {len(table)} detections: {people} people and {others} other entities in {out}")


def _make_folder(out: Path) -> None:
    """Make the folder of a file to write. Raises DataError if that or writing there is impossible."""
    from storyreason.errors import DataError

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {out} cannot be written: {error.strerror}.") from error
    if not os.access(out.parent, os.W_OK):
        raise DataError(f"--out {out} cannot be written: its folder is read-only.")


def _identify(film: "Film", method: Method, corrections: "list[Correction]") -> "tuple[Entities, list[str]]":
    """The entities of a film, and the places of corrections at which it has no detection."""
    from storyreason import perception
    from storyreason.perception import published

    if method == "published":
        return published.identify(film), []
    linked = perception.linked(film, corrections)
    return perception.identify(film, linked), list(linked.left_out)
