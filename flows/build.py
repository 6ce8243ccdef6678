"""A data set of films: frames, detections, entities, contact sheets, stories by a model, shards, a new data version."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from prefect import flow, get_run_logger

from flows import form
from storyreason import dataset
from storyreason.authoring import estimating
from storyreason.config import RunConfig
from storyreason.dataset import Withdrawn
from storyreason.errors import DataError
from storyreason.perception import sources
from tasks import ahead, building, builds, data, filming, withdrawing
from tasks.building import Footage, Tables
from tasks.faults import cancel_steps, plainly, say_how_to_go_on
from tasks.filming import Reel
from tasks.results import Authored, Named, Stage
from tasks.tracking import recall


@dataclass
class Built:
    """The outcome of a build. What did not run stays empty."""

    unusable: list[str] = field(default_factory=list)
    """What of the films could not be read, shows nothing, or shows what was withdrawn, one sentence for each."""
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
    films: str,
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
    """Make a data set of films. Complete steps and paid replies are not repeated.

    Args:
        films: A film (a video, or a folder or archive of pictures), a folder of films, or one with the table frames.parquet.
        preset: A preset of deploy/presets, or a YAML file: the values of all fields that are empty.
        detections: The table of what was detected in frames.parquet. Empty: detections.parquet beside it.
        corrections: A file of corrections (merge, split), as the contact sheets save them.
        author: The model that writes, by its name at the endpoint.
        max_cost: What the data set may cost in all.
        licence: The licence of the data set, such as cc-by-4.0: asked for before it is published.
        target: The DVC file whose data it replaces, as a new version; empty: none.
        until: sheets: only look, at entities and the cost; stories: the whole data set.
        overrides: Everything else, as `--set` takes it: authoring.attempts=5, one in a line.
    """
    config = form.chosen(preset, overrides, author=author, max_cost=max_cost)
    outcome = Built()
    withdrawn = withdrawing.listed(target or config.data.target)
    with builds.recorded(films, preset) as record:
        wanted = target if until == "stories" else None
        tables = _tables(config, Path(films), detections, until, wanted, withdrawn, outcome)
        tables = _shown(tables, Path(corrections) if corrections else None, withdrawn, outcome)
        _refuse_alone([film for table in tables for film in table.films], wanted)
        known, named = _recognized(config, tables, Path(corrections) if corrections else None, until, outcome)
        if until == "sheets":
            return outcome
        building.check_asked(config, (building.author.work(config, film, 0.0) for film in known))
        folder = _written(config, known, named, licence or "", outcome)
        if target:
            outcome.version = data.change(target, str(folder), dataset.adopt)
            get_run_logger().info("%s", outcome.version)
            record.publish(folder, target)
        record.end()
    return outcome


def _refuse_alone(films: list[str], target: str | None) -> None:
    """Raises DataError for a single film that is to become a version of data: no landmark is named and no story told first."""
    if target and len(films) == 1:
        raise DataError(
            f"{films[0]} is the only film, and {target} needs one for training and one for test: add films, or build without a "
            "target and add it to other data by `storyreason data add`."
        )


def _tables(
    config: RunConfig, place: Path, detections: str | None, until: Stage, target: str | None, withdrawn: list[Withdrawn],
    outcome: Built,
) -> list[Tables]:  # fmt: skip
    given = detections or filming.has_frames(place)
    gone = {one.film for one in withdrawn if one.entity is None}
    return [_given(place, detections)] if given else _detected(config, place, until, target, gone, outcome)


def _shown(tables: list[Tables], corrections: Path | None, withdrawn: list[Withdrawn], outcome: Built) -> list[Tables]:
    """The tables without the frames that show what was withdrawn: no model is shown them, and no sheet shows them."""
    if not withdrawn:
        return tables
    shown = []
    for table in tables:
        table, said = withdrawing.hide(table, building.recognize(table.detections, corrections).ids, withdrawn)
        for sentence in said:
            get_run_logger().warning("%s", sentence)
        outcome.unusable += said
        shown.append(table)
    return shown


def _recognized(
    config: RunConfig, tables: list[Tables], corrections: Path | None, until: Stage, outcome: Built
) -> tuple[list[Footage], list[Named]]:
    """The films with their entities, shown on contact sheets, and the landmarks that were named before.

    For sheets alone no model is asked: there are the landmarks of an earlier build, or none.
    """
    logger, named, known, unnamed = get_run_logger(), list[Named](), list[Footage](), list[Tables]()
    for sentence in building.elsewhere(corrections, tables):
        logger.warning("%s", sentence)
    for table in tables:
        if config.authoring.landmarks:
            before = building.cost(config, named)
            work = building.landmarks.work(config, table, before)
            if until == "sheets" and recall(work.folder) is None:
                unnamed.append(table)
            else:
                building.check_asked(config, [work])
                named.append(building.landmarks(config, table, before))
                table = replace(table, detections=named[-1].detections)
        recognized = building.recognize(table.detections, corrections)
        for sentence in recognized.left_out:
            logger.warning("%s", sentence)
        known += building.footage(table, recognized.ids)
    if not known:
        raise DataError(f"No film is left. {' '.join(outcome.unusable)}")
    for film in known:
        outcome.sheets[film.film] = str(building.sheet(film).page)
    outcome.expected = estimating.sentence(building.expected(config.authoring, known, unnamed))
    logger.info("%d films; expected: %s", len(known), outcome.expected)
    return known, named


def _written(config: RunConfig, films: list[Footage], named: list[Named], licence: str, outcome: Built) -> Path:
    """The folder of the data set."""
    authored: list[Authored] = []
    for film in films:
        authored.append(building.author(config, film, building.cost(config, [*named, *authored])))
    outcome.stories, outcome.left_out = sum(one.told for one in authored), sum(one.left_out for one in authored)
    folder = building.assemble(config, films, authored, licence, named).folder
    outcome.folder = str(folder)
    return folder


def _given(place: Path, detections: str | None) -> Tables:
    found = Path(detections) if detections else place / "detections.parquet"
    if not found.is_file():
        raise DataError(
            f"There is no {found}: make it by `storyreason detect {place} --detector … --out {found}`, or build from the films."
        )
    return Tables(place, found)


def _detected(
    config: RunConfig, place: Path, until: Stage, target: str | None, gone: set[str], outcome: Built
) -> list[Tables]:
    """The frames and detections of each film that has some, film after film. What cannot be used is left out, and said."""
    logger, found = get_run_logger(), list[Tables]()

    def leave_out(sentence: str) -> None:
        logger.warning("%s", sentence)
        outcome.unusable.append(sentence)

    reels = list[Reel]()
    for name, path in sources.find([place]).items():
        if name in gone:
            leave_out(f"{path} is left out: the film {name} was withdrawn.")
            continue
        try:
            reels.append(filming.reel(name, path))
        except DataError as error:
            leave_out(str(error))
    _refuse_alone([reel.name for reel in reels], target)
    if filming.check(config, reels) and until == "stories":
        building.check_author(config)
    if config.films.workers:  # who have models of their own
        filming.unload()
    for number, reel in enumerate(ahead.ready(config, reels), 1):
        logger.info("film %d of %d: %s", number, len(reels), reel.name)
        try:
            kept = filming.extract(config, reel)
        except DataError as error:
            leave_out(str(error))
            continue
        if kept.problem:
            leave_out(kept.problem)
        if not kept.kept:
            leave_out(f"{reel.path} is left out: none of its frames shows anything but black, white or one colour.")
            continue
        try:
            detected = filming.detect(config, kept.folder, reel.name, kept.fingerprint)
        except DataError as error:
            leave_out(str(error))
            continue
        if detected.count:
            found.append(Tables(kept.folder, detected.detections))
        else:
            leave_out(f"{reel.path} is left out: {config.films.detector} found nothing in its {kept.kept} frames.")
    filming.unload()
    if not found:
        raise DataError(f"No film of {place} can be used. {' '.join(outcome.unusable)}")
    return found
