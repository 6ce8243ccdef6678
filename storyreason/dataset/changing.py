"""Changes to a data set: adding or replacing stories, and the differences between two versions."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from storyreason import runs
from storyreason.dataset import withdrawn
from storyreason.dataset.checking import Bad, check, inspect, refuse_many
from storyreason.dataset.dividing import Division, divide
from storyreason.dataset.films import films
from storyreason.dataset.shards import SPLITS, Example, Split, copy, has_origin, load, shards, write
from storyreason.errors import DataError
from storyreason.format.plain import plain

CARD = "README.md"
"""The data card in a folder of shards."""
WITHOUT_LICENCE = "No licence was named: do not publish this data set."
"""What a card says then."""
NAMED = 5
"""How many stories of each kind of change a report names; the others are counted."""


@dataclass(frozen=True, slots=True)
class Change:
    """The differences between two versions of a data set: story IDs by split, and the number of stories before and after."""

    before: Mapping[str, int]
    after: Mapping[str, int]
    added: Mapping[str, tuple[str, ...]]
    removed: Mapping[str, tuple[str, ...]]
    rewritten: Mapping[str, tuple[str, ...]]
    """Stories with different pictures or texts."""
    moved: tuple[str, ...]
    """Stories that changed their split: scores on the test split are no longer comparable."""
    left_out: tuple[str, ...] = ()
    """The bad stories of an addition, which were not added, each with its fault."""
    unusable: tuple[str, ...] = ()
    """The bad stories of a data set, which training and evaluation leave out, each with its fault."""
    withdrawn: tuple[str, ...] = ()
    """The stories that did not come in, because they show what was withdrawn."""
    divided: str = ""
    """How a source without a test split was divided; empty: it had one."""

    @property
    def nothing(self) -> bool:
        """Whether both versions have the same stories."""
        return not (self.moved or any(any(kind.values()) for kind in (self.added, self.removed, self.rewritten)))

    def summary(self) -> str:
        """One line for each split that differs: `train: 480 -> 482 stories, 2 added (a-1, a-2)`."""
        lines = ["nothing changed"] if self.nothing else []
        for split in SPLITS:
            kinds = {"added": self.added, "removed": self.removed, "rewritten": self.rewritten}
            said = [f"{len(ids[split])} {kind} ({_named(ids[split])})" for kind, ids in kinds.items() if ids[split]]
            if said:
                lines.append(f"{split}: {self.before[split]} -> {self.after[split]} stories, {', '.join(said)}")
        if self.moved:
            lines.append(f"{len(self.moved)} stories moved to another split ({_named(self.moved)})")
        if self.divided:
            lines.append(f"no test split: {self.divided}")
        if self.withdrawn:
            lines.append(
                f"{len(self.withdrawn)} stories left out, as they show what was withdrawn ({_named(self.withdrawn)})"
            )
        if self.left_out:
            lines.append(f"{len(self.left_out)} bad stories not added: {_faults(self.left_out)}")
        if self.unusable:
            lines.append(f"{len(self.unusable)} stories cannot be used: {_faults(self.unusable)}")
        return "\n".join(lines)


def counted(card: str, what: str, count: int) -> str:
    """A data card that says how many stories were `what`, such as "added", since it was made: with those of earlier times."""
    said = re.compile(rf"\n*^Stories {what} after it was made: ([0-9]+)\.\n*", re.MULTILINE)
    count += sum(int(number) for number in said.findall(card))
    before = said.sub("\n\n", card).rstrip("\n")
    return f"{before}\n\nStories {what} after it was made: {count}.\n"


def compare(before: Path | None, after: Path) -> Change:
    """The differences between two data sets. `before` is None if there was none."""
    old: dict[str, tuple[str, str]] = {} if before is None else _contents(before)
    new = _contents(after)
    added, removed, rewritten = (dict[str, tuple[str, ...]]() for _ in range(3))
    for split in SPLITS:
        added[split] = tuple(name for name, (where, _) in new.items() if where == split and name not in old)
        removed[split] = tuple(name for name, (where, _) in old.items() if where == split and name not in new)
        rewritten[split] = tuple(
            name for name, (where, hash_) in new.items() if where == split and name in old and old[name][1] != hash_
        )
    counts = [{split: sum(where == split for where, _ in side.values()) for split in SPLITS} for side in (old, new)]
    moved = tuple(name for name, (where, _) in new.items() if name in old and old[name][0] != where)
    return Change(counts[0], counts[1], added, removed, rewritten, moved)


Put = Callable[[Path, Path], None]
"""Puts a new folder (second) in the place of the data's folder (first)."""


def append(folder: Path, source: Path, put: Put = runs.replace) -> Change:
    """Adds the stories of `source` to the data set in `folder`, as new shards next to the existing ones.

    The addition is judged by itself: of its stories at most 1 % may be bad, and these are left out and named. Existing
    stories stay in their split. What was withdrawn, from this data set or from `source`, is left out and named. Raises
    DataError and changes nothing if more are bad, if a story ID is already in use, if the film of a new story has stories in
    the other split, or if the result does not pass `check`.
    """
    joining = {split: _stories(source, split) for split in SPLITS}
    if not any(joining.values()):
        raise DataError(f"{source} has no stories: it must contain {' or '.join(f'{s}-*.parquet' for s in SPLITS)}.")
    before = withdrawn.read(folder)
    known = withdrawn.joined(before, withdrawn.read(source))
    gone = _withdrawn(source, known)
    joining = {split: [name for name in names if name not in gone] for split, names in joining.items()}
    _refuse_doubles(folder, source, joining)
    bad = _judged(source, joining)
    left_out = {one.story_id for one in bad} | gone
    with new_folder(folder) as new:
        for split in SPLITS:
            files = shards(folder, split)
            added = (
                (one for one in load(source, split, raw=True) if one.story_id not in left_out) if joining[split] else ()
            )
            # All shards of a split have the same columns, or the Hub's loader would refuse them.
            like = has_origin(files)
            fresh = write(added, new, split, with_origin=like) if set(joining[split]) - left_out else []
            total = len(files) + len(fresh)
            for number, file in reversed(list(enumerate([*files, *fresh]))):
                name = new / f"{split}-{number:05d}-of-{total:05d}.parquet"
                if file.parent == new:
                    file.rename(name)
                else:
                    _link(file, name)
        keep_the_rest(folder, new)
        withdrawn.write(known, new)
        check(new, name=folder)
        change = replace(compare(folder, new), left_out=tuple(map(str, bad)), withdrawn=tuple(sorted(gone)))
        if (count := sum(map(len, change.added.values()))) and (card := new / CARD).is_file():
            runs.write_text(card, counted(card.read_text(), "added", count))
        if not change.nothing or known != before:
            put(folder, new)
    return change


def adopt(folder: Path, source: Path, put: Put = runs.replace) -> Change:
    """Replaces the data set in `folder` by the one in `source`, without what was withdrawn from either.

    One that has no test split is divided by film, which the card says. Bad stories, of which there may be 1 %, stay in it and
    are named: training and evaluation leave them out. Raises DataError and changes nothing if `source` has one split that
    cannot be divided or does not pass `check`.
    """
    before = withdrawn.read(folder) if folder.is_dir() else []
    known = withdrawn.joined(before, withdrawn.read(source))
    gone = _withdrawn(source, known)
    division = divide(source, gone)
    for split in SPLITS if division is None else ("train",):
        load(source, split)  # its shards and their columns
    written = source.name.startswith(beside(folder))  # by `fetched`, which removes it: what is in it needs no copy
    with new_folder(folder) as new:
        for split in SPLITS:
            files = shards(source, split if division is None else "train")
            if gone or division is not None:
                write(_chosen(files, gone, division, split), new, split, with_origin=has_origin(files))
            elif written:
                for file in files:
                    _link(file, new / file.name)
            elif all(map(_is_normal, files)):
                for file in files:
                    copy(file, new / file.name)
            else:
                write(load(source, split, raw=True), new, split)
        if (card := source / CARD).is_file():
            shutil.copyfile(card, new / CARD)
        withdrawn.write(known, new)
        report = check(new, name=source)
        if division is not None:
            told = (new / CARD).read_text() if (new / CARD).is_file() else report.markdown()
            runs.write_text(new / CARD, division.card(told))
        old = folder if folder.is_dir() and any(folder.glob("**/*.parquet")) else None
        change = replace(compare(old, new), unusable=tuple(map(str, report.bad)), withdrawn=tuple(sorted(gone)),
                         divided=str(division or ""))  # fmt: skip
        if not change.nothing or known != before:
            put(folder, new)
    return change


def _chosen(files: Sequence[Path], gone: Container[str], division: Division | None, split: str) -> Iterator[Example]:
    """The stories of a split: of files of it, or of a split that is divided."""
    for one in Split(files, raw=True):
        if one.story_id not in gone and (division is None or (one.story_id in division.for_test) == (split == "test")):
            yield one


def _withdrawn(source: Path, known: Sequence[withdrawn.Withdrawn]) -> set[str]:
    """The stories of a data set that show what was withdrawn."""
    if not known:
        return set()
    every = (one for split in SPLITS if _stories(source, split) for one in load(source, split, raw=True))
    return {one.story_id for one in every if any(entry.shown_by(one) for entry in known)}


def _is_normal(file: Path) -> bool:
    """Whether the texts of a shard are written as `load` reads them."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as shard:
        for batch in shard.iter_batches(columns=["chain_of_thought", "story"]):
            for row in batch.to_pylist():
                if any((text or "") != plain(text or "") for text in row.values()):
                    return False
    return True


def _judged(source: Path, joining: Mapping[str, list[str]]) -> list[Bad]:
    """The stories of an addition that cannot be used, by their pictures as they will be stored.

    Raises DataError if there are too many.
    """
    bad: list[Bad] = []
    for split in (split for split in SPLITS if joining[split]):
        wanted = set(joining[split])
        rows = (one for one in load(source, split, raw=True) if one.story_id in wanted)
        bad += [fault for one in rows if (fault := inspect(one).bad(split)) is not None]
    refuse_many(source, bad, sum(map(len, joining.values())))
    return bad


def beside(folder: Path) -> str:
    """How the names of new folders begin that are made beside `folder`."""
    return f".{folder.name}.new-"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A new folder next to `folder`, removed afterwards unless it was renamed."""
    path = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=beside(folder)))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _stories(source: Path, split: str) -> list[str]:
    try:
        return load(source, split).story_ids()
    except DataError:
        if any(Path(source).glob(f"**/{split}-*.parquet")):
            raise
        return []


def _refuse_doubles(folder: Path, source: Path, joining: Mapping[str, list[str]]) -> None:
    split_of = {name: split for split in SPLITS for name in load(folder, split).story_ids()}
    doubles = [name for names in joining.values() for name in names if name in split_of]
    if doubles:
        raise DataError(
            f"{len(doubles)} stories of {source} are already in {folder} ({_named(doubles)}): remove them from "
            f"{source}, or give them other IDs."
        )
    if not all("-" in name for name in [*split_of, *joining["train"], *joining["test"]]):
        return  # the IDs do not contain the film
    places: dict[str, set[str]] = {}
    for name, film in films(list(split_of)).items():
        places.setdefault(film, set()).add(split_of[name])
    for split, names in joining.items():
        for name, film in films(names).items() if names else ():
            others = places.get(film, set()) - {split}
            if others:
                raise DataError(
                    f"Story {name} of {source} is for {split}, but its film {film} has stories in {others.pop()}: all stories of "
                    "a film must be in one split. Move the story, or rename the film."
                )


def _contents(folder: Path) -> dict[str, tuple[str, str]]:
    """The split of each story, and the SHA-256 of its pictures and texts."""
    return {example.story_id: (split, _hash(example)) for split in SPLITS for example in load(folder, split, raw=True)}


def _hash(example: Example) -> str:
    digest = hashlib.sha256()
    for part in (*example.images, example.chain_of_thought.encode(), example.story.encode()):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:
        shutil.copy(file, name)


def keep_the_rest(folder: Path, new: Path) -> None:
    """Links the other files of the folder, such as a card or a film mapping, into the new one."""
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".parquet":
            _link(path, new / path.name)


def _faults(told: tuple[str, ...]) -> str:
    return "; ".join(told[:NAMED]) + (f"; and {len(told) - NAMED} more" if len(told) > NAMED else "")


def _named(ids: tuple[str, ...] | list[str]) -> str:
    return ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
