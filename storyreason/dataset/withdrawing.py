"""Withdrawal: the stories of a film, or those that show one of its people or things, leave a data set."""

from pathlib import Path

from storyreason import runs
from storyreason.dataset.changing import CARD, Change, Put, compare, keep_the_rest, new_folder
from storyreason.dataset.checking import check
from storyreason.dataset.films import films
from storyreason.dataset.shards import SPLITS, Example, has_origin, load, shards, write
from storyreason.format import analysis


def withdraw(folder: Path, film: str, entity: str | None = None, put: Put = runs.replace) -> Change:
    """Remove a film's stories from the data set in `folder`; with `entity`, an ID of the film, only those that have it.

    The card says how many went, and no longer names a film without stories. Nothing is changed if there is no such story.
    Raises DataError, and changes nothing either, if what remains does not pass `check`.
    """
    with new_folder(folder) as new:
        for split in SPLITS:
            kept = (one for one in load(folder, split, raw=True) if not shows(one, film, entity))
            write(kept, new, split, with_origin=has_origin(shards(folder, split)))
        keep_the_rest(folder, new)
        change = compare(folder, new)
        gone = sum(map(len, change.removed.values()))
        if not gone:
            return change
        if (card := new / CARD).is_file():
            runs.write_text(card, _without(card.read_text(), film if entity is None else None, gone))
        check(new, name=folder)
        put(folder, new)
    return change


def shows(example: Example, film: str, entity: str | None) -> bool:
    """Whether a story is of this film, and has this entity, if one is named."""
    of = example.origin.film if example.origin is not None else films([example.story_id])[example.story_id]
    if of != film:
        return False
    read, _ = analysis.read(example.chain_of_thought)
    return entity is None or any(row.id == entity for section in read.sections for row in section.entities)


def _without(card: str, film: str | None, gone: int) -> str:
    """A card without the row of a film, and with what was withdrawn."""
    lines = [line for line in card.split("\n") if film is None or not line.startswith(f"| {film} |")]
    return "\n".join(lines).rstrip("\n") + f"\n\nStories withdrawn after it was made: {gone}.\n"
