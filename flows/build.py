"""A data set of films: recognize people and things, contact sheets, stories by a model, shards, a new data version."""

from dataclasses import dataclass, field
from pathlib import Path

from prefect import flow, get_run_logger

from flows import form
from storyreason import dataset
from storyreason.authoring import estimating
from storyreason.errors import DataError
from tasks import building, data
from tasks.faults import cancel_steps, plainly, say_how_to_go_on
from tasks.results import Authored, Stage


@dataclass
class Built:
    """The outcome of a build. What did not run stays empty."""

    sheets: dict[str, str] = field(default_factory=dict)
    """The contact sheet of each film."""
    expected: str = ""
    folder: str = ""
    stories: int = 0
    left_out: int = 0
    version: str = ""
    """What is said about the new data version."""


@flow(name="build", flow_run_name=form.run_name, on_crashed=[say_how_to_go_on], on_cancellation=[cancel_steps])
@plainly()
def build(
    frames: str,
    preset: str = "sample",
    detections: str | None = None,
    corrections: str | None = None,
    author: str | None = None,
    max_cost: form.Cost = None,
    licence: str | None = None,
    target: str | None = None,
    until: Stage = "stories",
    overrides: form.Overrides = None,
) -> Built:
    """Make a data set of films whose people and things are detected. Complete steps and paid replies are not repeated.

    Args:
        frames: The folder with the table of frames, frames.parquet.
        preset: A preset of deploy/presets, or a YAML file: the values of all fields that are empty.
        detections: The table of detections. Empty: detections.parquet in the folder of frames.
        corrections: A file of corrections (merge, split), as the contact sheets save them.
        author: The model that writes, by its name at the endpoint.
        max_cost: What the data set may cost in all.
        licence: The licence of the data set, such as cc-by-4.0: asked for before it is published.
        target: The DVC file whose data it replaces, as a new version; empty: none.
        until: sheets: only look, at entities and the cost; stories: the whole data set.
        overrides: Everything else, as `--set` takes it: authoring.attempts=5, one in a line.
    """
    config = form.chosen(preset, overrides, author=author, max_cost=max_cost)
    logger, outcome = get_run_logger(), Built()
    kept = Path(frames)
    found = Path(detections) if detections else kept / "detections.parquet"
    named = building.landmarks(config, kept, found) if config.authoring.landmarks else None
    if named is not None:
        found = named.detections
    recognized = building.recognize(found, Path(corrections) if corrections else None)
    for sentence in recognized.left_out:
        logger.warning("%s", sentence)
    films = building.footage(kept, found, recognized.ids)
    for film in films:
        outcome.sheets[film.film] = str(building.sheet(film).page)
    outcome.expected = estimating.sentence(building.expected(config.authoring, films))
    logger.info("%d films; expected: %s", len(films), outcome.expected)
    if until == "sheets":
        return outcome

    authored: list[Authored] = []
    for film in films:
        spent = sum(one.cost for one in authored) + (named.cost if named else 0)
        authored.append(building.author(config, film, spent))
    outcome.stories, outcome.left_out = sum(one.told for one in authored), sum(one.left_out for one in authored)
    folder = building.assemble(config, films, authored, licence or "").folder
    outcome.folder = str(folder)
    if target:
        _refuse_one_film(folder)
        outcome.version = data.change(target, str(folder), dataset.adopt)
        logger.info("%s", outcome.version)
    return outcome


def _refuse_one_film(folder: Path) -> None:
    if not list(folder.glob("test-*.parquet")):
        raise DataError(
            f"{folder} has stories of one film, all for training: build more films, or add it to other data with "
            f"`storyreason data add {folder}`."
        )
