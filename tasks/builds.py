"""What builds of data sets use in `runs/`: `clean` removes what none of the newest needs.

`runs/builds/<fingerprint>.jsonl` is the record of one build, by its films and its preset. A line is added for each folder
before a step works in it, so that an interrupted build keeps what it has done. When the data set is made, only the folders
that it is made of stay in the record: those of other settings and of films that have changed are then nobody's.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storyreason import runs
from tasks.steps import USED

FOLDERS = {
    "groundcap": "pictures of GroundCap's films",
    "extract": "frames of a film",
    "detect": "detections in a film",
    "looks": "looks in a film",
    "landmarks": "named landmarks",
    "recognize": "entities of a film",
    "sheet": "a contact sheet",
    "author": "stories of a film",
    "assemble": "a data set of films",
}
"""The folders in `runs/` that are a build's, and what is in each of theirs. The replies that were paid for are not: they stay."""


class Record:
    """Which folders a build uses."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.folders: list[str] = []
        """Relative to the runs."""
        self.published: dict[str, str] = {}
        """The DVC file that has the content of a folder as a version."""
        for line in file.read_text().splitlines() if file.exists() else ():
            try:
                said = json.loads(line)
            except ValueError:  # cut by a full disk
                continue
            self.folders.append(said["folder"])
            if "published" in said:
                self.published[said["folder"]] = said["published"]

    @classmethod
    def all(cls) -> list["Record"]:
        """The records, the one that was used last first."""
        found = (runs.root() / "builds").glob("*.jsonl")
        return [cls(file) for file in sorted(found, key=lambda file: file.stat().st_mtime_ns, reverse=True)]


class _Kept:
    """Writes the record of a build while it runs."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: dict[str, None] = {}

    def use(self, folder: Path) -> None:
        """The build uses this folder."""
        self._add(folder)

    def publish(self, folder: Path, target: str) -> None:
        """The data in this folder are a version of a DVC file."""
        self._add(folder, published=target)

    def _add(self, folder: Path, **more: str) -> None:
        said = {"folder": "/".join(folder.relative_to(runs.root()).parts[:2]), **more}
        if (line := json.dumps(said)) not in self.lines:
            self.lines[line] = None
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a") as file:
                file.write(f"\n{line}\n")  # the line before may be cut

    def end(self) -> None:
        """The data set is made: what earlier runs of the build used, and this one did not, is no longer its own."""
        runs.write_text(self.file, "\n".join([*self.lines, ""]))


@contextmanager
def recorded(films: str, preset: str) -> Iterator[_Kept]:
    """Keep the record of a build: the steps that are called in this block are its own."""
    kept = _Kept(runs.root() / "builds" / f"{runs.fingerprint(films=films, preset=preset)}.jsonl")
    token = USED.set(kept.use)
    try:
        yield kept
    finally:
        USED.reset(token)


def removable(keep: int) -> Iterator[tuple[Path, str]]:
    """The folders that can be removed when the newest `keep` builds stay, and what each holds.

    Of a build whose data are a version, the shards in `runs/` go as well: they are a copy.
    """
    records = Record.all()
    used = {
        one: record for record in reversed(records) for one in record.folders
    }  # the newest build with a folder counts
    newest = set(map(id, records[:keep]))
    for step, what in FOLDERS.items():
        for folder in sorted(path for path in (runs.root() / step).glob("[!.]*") if path.is_dir()):
            build = used.get(f"{step}/{folder.name}")
            if build is None:
                yield folder, f"{what}, of no build"
            elif id(build) not in newest:
                yield folder, f"{what}, of an older build"
            elif target := build.published.get(f"{step}/{folder.name}"):
                yield folder, f"{what}, a copy of what is a version of {target}"


def sweep() -> None:
    """Remove the records of builds that have no folder any more."""
    for record in Record.all():
        if not any((runs.root() / folder).is_dir() for folder in record.folders):
            record.file.unlink(missing_ok=True)
