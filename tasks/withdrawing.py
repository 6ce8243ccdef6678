"""A film, or one of its people, leaves the data and everything in `runs/` that was kept to make it."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from storyreason import dataset, runs
from storyreason.authoring import withdrawing
from storyreason.config import DataConfig
from storyreason.dataset.withdrawn import FILE, Place, parse
from storyreason.errors import DataError
from storyreason.perception import frames
from tasks import building, cache, cleaning, data, filming, versioning

OLDER = (
    "Older versions of the data still have it, in Git, in DVC's cache and in its remote: `dvc gc --workspace --cloud` removes "
    "those that nothing names. Models that were trained on it are not changed."
)

STEPS = ("extract", "sheet", "author", "assemble")
"""The steps whose folders are of one film, or of a data set."""
TABLES = ("detect/*/detections.parquet", "detect/*/.detections.parquet.films/*.parquet", "landmarks/*/detections.parquet",
          "recognize/*/ids.parquet")  # fmt: skip
"""The tables in `runs/` with rows of films."""
CACHES = ("prepared", "features")
"""What trainings keep of stories and pictures, by their content: it does not say of which film it is, and is made again."""


def withdraw(target: str, film: str, entity: str | None, kept: Path | None, corrections: Path | None) -> str:
    """Withdraw a film, or the stories that show one of its entities, for good; gives the report.

    `kept` is a folder of frames and detections, and `corrections` what their IDs were made with. The data are changed first:
    whatever is interrupted after that is done by the next try, and nothing is forgotten. Raises DataError when nothing was
    found, and RunError while a job runs, which may read or write what is to go.
    """
    cleaning.refuse_while_running()
    made, places, ids = list(dict.fromkeys(_made_of(film))), list[Place](), Path()
    known = bool(made)
    if kept is not None:
        tables = building.Tables(kept, kept / "detections.parquet")
        ids = building.recognize.compute(tables.detections, corrections).ids
        shots = building.Footage(film, tables, ids, "").shots()
        places = withdrawing.places(shots, entity) if entity is not None else []
        known = known or bool(shots)

    def how(folder: Path, _: Path, put: Callable[[Path, Path], None]) -> dataset.Change:
        return dataset.withdraw(folder, film, entity, put, places, known=known if entity is None else bool(places))

    said = [data.change(target, target.removesuffix(".dvc"), how)]
    nothing = said == ["nothing changed"]
    if kept is not None and (gone := withdrawing.withdraw(kept, tables.detections, ids, film, entity)):
        said.append(f"{gone} frames of {film} and what was detected in them are removed from {kept}")
    made += _pulled(film, target)
    its = any(one.film == film for one in listed(target))
    if made or its:
        made = [*(folder for kind in CACHES if (folder := runs.root() / kind).is_dir()), *made]
    made = list(dict.fromkeys([*made, *_interrupted()]))
    for folder in made:
        shutil.rmtree(folder)
    if made:
        said.append(f"{len(made)} folders that were made of {film} are removed from {runs.root()}")
    if nothing and len(said) == 1:
        raise DataError(
            f"Neither {target} nor the runs of this checkout have anything of film {film!r}: look at its name."
        )
    if its:
        said.append(f"{target.removesuffix('.dvc')}/{FILE} lists it: what is built, imported or added leaves it out")
    return "\n".join([*said, OLDER])


def listed(target: str) -> list[dataset.Withdrawn]:
    """What was withdrawn from the current version of a DVC file; nothing if there is no such file. Raises DataError."""
    if not Path(target).is_file():
        return []
    content = versioning.read(data.identify(DataConfig(target=target)), FILE)
    return parse(content, f"{FILE} of {target}") if content else []


def hide(
    tables: building.Tables, ids: Path, withdrawn: Sequence[dataset.Withdrawn]
) -> tuple[building.Tables, list[str]]:
    """The tables without the frames that show what was withdrawn, and a sentence for each film that loses some."""
    hidden, said = set[tuple[str, int, int]](), list[str]()
    for film in frames.films(tables.kept):
        entries = [one for one in withdrawn if one.film == film]
        shots = building.Footage(film, tables, ids, "").shots() if entries else []
        if found := withdrawing.hidden(shots, entries, withdrawing.removed(tables.kept, film), said.append):
            hidden |= {(film, *place) for place in found}
            said.append(f"{len(found)} of {len(shots)} frames of {film} are left out: they show what was withdrawn.")
    return replace(tables, hidden=frozenset(hidden)), said


def _made_of(film: str) -> Iterator[Path]:
    """The folders in `runs/` with something of a film: replies, frames, detections, stories, contact sheets, assembled data.

    Some more than once.
    """
    import pyarrow.parquet as pq

    root = runs.root()
    yield from (place for place in (building.calls(film), filming.known_looks(film)) if place.is_dir())
    yield from (folder / "films" / film for folder in root.glob("groundcap/*") if (folder / "films" / film).is_dir())
    for step in STEPS:
        for folder in sorted((root / step).glob("*")):
            if (runs.read_manifest(folder) or {}).get("film") == film:
                yield folder
    for pattern in TABLES:
        for table in sorted(root.glob(pattern)):
            if film in map(str, pq.read_table(table, columns=["film"]).column("film").to_pylist()):
                yield root.joinpath(*table.relative_to(root).parts[:2])
    for folder in sorted((root / "assemble").glob("*")):
        if _has(folder / "data", film):
            yield folder


def _pulled(film: str, target: str) -> Iterator[Path]:
    """The versions in `runs/` with stories of a film, but for the current one: a run that its event started may use it."""
    current = data.identify(DataConfig(target=target)).md5 if Path(target).is_file() else None
    for folder in sorted((runs.root() / "data").glob("[!.]*")):
        if folder.name != current and _has(folder, film):
            yield folder


def _interrupted() -> Iterator[Path]:
    """The folders in `runs/` that do not say of which film they are: what was interrupted may be of any."""
    yield from (runs.root() / "data").glob(".*.part")
    yield from (folder for folder in runs.root().glob(f"*/{cache.GONE}*") if folder.parent.name not in CACHES)
    for step in STEPS:
        for folder in sorted((runs.root() / step).glob("*")):
            if runs.read_manifest(folder) is None:
                yield folder


def _has(folder: Path, film: str) -> bool:
    """Whether a folder of shards has stories of a film."""
    found = [*folder.glob("**/train-*.parquet"), *folder.glob("**/test-*.parquet")]
    splits = {path.name.partition("-")[0] for path in found}
    try:
        return any(film in dataset.films(dataset.load(folder, split).story_ids()).values() for split in splits)
    except DataError:  # damaged: it may have
        return True
