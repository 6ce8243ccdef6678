"""A film, or one of its people, leaves the data and everything in `runs/` that was kept to make it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from storyreason import dataset, runs
from storyreason.authoring import withdrawing
from storyreason.errors import DataError
from tasks import building, data

OLDER = (
    "Older versions of the data still have it, in Git, in DVC's cache and in its remote: `dvc gc --workspace --cloud` removes "
    "those that nothing names. Models that were trained on it are not changed. Building from the film itself makes it all again: "
    "remove it from the folder of films, too."
)

TABLES = ("detect/*/detections.parquet", "detect/*/.detections.parquet.films/*.parquet", "landmarks/*/detections.parquet",
          "recognize/*/ids.parquet")  # fmt: skip
"""The tables in `runs/` with rows of films."""


def withdraw(target: str, film: str, entity: str | None, kept: Path | None, corrections: Path | None) -> str:
    """Withdraw a film, or the stories that show one of its entities; gives the report.

    `kept` is a folder of frames and detections, and `corrections` what their IDs were made with. Raises DataError when
    nothing was found.
    """
    said = []
    if kept is not None:
        detections = kept / "detections.parquet"
        ids = building.recognize.compute(detections, corrections).ids
        if gone := withdrawing.withdraw(kept, detections, ids, film, entity):
            said.append(f"{gone} frames of {film} and what was detected in them are removed from {kept}")
    made = list(dict.fromkeys(_made_of(film)))
    for folder in made:
        shutil.rmtree(folder)
    if made:
        said.append(f"{len(made)} folders that were made of {film} are removed from {runs.root()}")

    def how(folder: Path, _: Path, put: Callable[[Path, Path], None]) -> dataset.Change:
        return dataset.withdraw(folder, film, entity, put)

    changed = data.change(target, target.removesuffix(".dvc"), how)
    if changed == "nothing changed" and not said:
        raise DataError(
            f"Neither {target} nor the runs of this checkout have anything of film {film!r}: look at its name."
        )
    return "\n".join([*said, changed, OLDER])


def _made_of(film: str) -> Iterator[Path]:
    """The folders in `runs/` with something of a film: replies, frames, detections, stories, contact sheets, assembled data.

    Some more than once.
    """
    import pyarrow.parquet as pq

    root = runs.root()
    if (replies := building.calls(film)).is_dir():
        yield replies
    yield from (folder / "films" / film for folder in root.glob("groundcap/*") if (folder / "films" / film).is_dir())
    for step in ("extract", "sheet", "author", "assemble"):
        for folder in sorted((root / step).glob("*")):
            manifest = runs.read_manifest(folder)
            # What was interrupted does not say of which film it is.
            if manifest is None or manifest.get("film") == film:
                yield folder
    for pattern in TABLES:
        for table in sorted(root.glob(pattern)):
            if film in map(str, pq.read_table(table, columns=["film"]).column("film").to_pylist()):
                yield root.joinpath(*table.relative_to(root).parts[:2])
    for folder in sorted((root / "assemble").glob("*")):
        if _has(folder / "data", film):
            yield folder


def _has(folder: Path, film: str) -> bool:
    found = [*folder.glob("train-*.parquet"), *folder.glob("test-*.parquet")]
    splits = {path.name.partition("-")[0] for path in found}
    return any(film in dataset.films(dataset.load(folder, split).story_ids()).values() for split in splits)
