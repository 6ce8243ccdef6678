"""A data set that has stories for training only is divided by film: some of the films become the test split."""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from storyreason.dataset.films import TEST_SHARE, films, for_testing, place_for_test
from storyreason.dataset.shards import SPLITS, shards
from storyreason.errors import DataError

NAMED = 20
"""Films that a card names; more are counted."""

HEAD = "## Splits\n\nIt had no test split: "
"""How a card begins to say how the data were divided, in one line."""


@dataclass(frozen=True)
class Division:
    """Which stories become the test split, by their films."""

    for_test: frozenset[str]
    films: tuple[str, ...]
    """Those for test, sorted."""
    count: int
    """All films."""
    firm: bool
    """Whether more films do not move others: there are enough that the hashes alone choose."""

    def __str__(self) -> str:
        named = ", ".join(self.films[:NAMED]) + f" and {len(self.films) - NAMED} more" * (len(self.films) > NAMED)
        return f"{len(self.films)} of {self.count} films are for test, chosen by a hash of their names: {named}"

    def card(self, card: str) -> str:
        """A card that says so, and names the files of both splits to who loads the folder."""
        from huggingface_hub import DatasetCard

        read = DatasetCard(card if card.startswith("---\n") else f"---\n---\n{card}")
        files = [{"split": split, "path": f"{split}-*.parquet"} for split in SPLITS]
        read.data["configs"] = [{"config_name": "default", "data_files": files}]
        firm = ", and more films do not move others" * self.firm
        said = f"{HEAD}{self}. All stories of a film are in one split{firm}.\n"
        # What an earlier division said is no longer so.
        before, *after = re.split(f"^{HEAD}.*\n?", str(read), flags=re.MULTILINE)
        return f"{before.rstrip()}\n\n{said}{''.join(after)}"


def divide(source: Path, gone: Container[str] = ()) -> Division | None:
    """How a data set that has one split is divided, without the stories in `gone`; None for one that has both.

    Raises DataError if it has only stories for test, if they do not say their films, or if they are all of one.
    """
    have = [split for split in SPLITS if list(source.glob(f"**/{split}-*.parquet"))]
    if len(have) != 1:
        return None
    way = "divide its files by film, or add it to data that have both (`storyreason data add`)"
    if have == ["test"]:
        raise DataError(f"{source} has stories for test only, and data need some for train, of other films: {way}.")
    of = {name: film for name, film in _films(source).items() if name not in gone}
    division = by_film(of)
    if division is None:
        why = "they do not say of which films they are" if len(set(of.values())) > 1 else "they are all of one film"
        raise DataError(
            f"{source} has stories for train only, and data need some for test, of other films; {why}: {way}."
        )
    return division


def by_film(of: Mapping[str, str]) -> Division | None:
    """How stories are divided, by the film of each; None if they are all of one film, or do not say their films."""
    every = set(of.values())
    chosen = for_testing(sorted(every))
    if not chosen or any(name == film for name, film in of.items()):
        return None
    stories = frozenset(name for name, film in of.items() if film in chosen)
    firm = chosen == {film for film in every if place_for_test(film) < TEST_SHARE}
    return Division(stories, tuple(sorted(chosen)), len(every), firm)


def _films(source: Path) -> dict[str, str]:
    """The film of each story for training: its own column, else by its ID."""
    import pyarrow.parquet as pq

    found: dict[str, str | None] = {}
    for file in shards(source, "train"):
        columns = [name for name in ("story_id", "film") if name in pq.read_schema(file).names]
        for row in pq.read_table(file, columns=columns).to_pylist():
            found[str(row["story_id"])] = row.get("film")
    named = films(list(found))
    return {name: film or named[name] for name, film in found.items()}
