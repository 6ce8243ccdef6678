"""Withdrawal: the stories of a film, or those that show one of its people or things, leave a data set and stay away."""

from collections.abc import Sequence
from pathlib import Path

from storyreason import runs
from storyreason.dataset import withdrawn
from storyreason.dataset.changing import CARD, Change, Put, compare, keep_the_rest, new_folder
from storyreason.dataset.checking import check
from storyreason.dataset.shards import SPLITS, Example, has_origin, load, shards, write
from storyreason.dataset.withdrawn import Place, Withdrawn, film_of
from storyreason.format import analysis


def withdraw(
    folder: Path,
    film: str,
    entity: str | None = None,
    put: Put = runs.replace,
    places: Sequence[Place] = (),
    known: bool = False,
) -> Change:
    """Remove a film's stories from the data set in `folder`; with `entity`, an ID of the film, only those that have it.

    What is withdrawn is put on the list of `storyreason.dataset.withdrawn`, with `places` where the entity is besides. The card
    says how many stories went, and no longer names a film without any. Nothing is changed if there is no such story, unless
    the film or entity is `known` from elsewhere. Raises DataError, and changes nothing either, if what remains does not pass
    `check`.
    """
    gone: list[str] = []
    seen = list(places)

    def stays(one: Example) -> bool:
        if not shows(one, film, entity):
            return True
        gone.append(one.story_id)
        seen.extend(withdrawn.places(one, entity) if entity is not None else ())
        return False

    with new_folder(folder) as new:
        for split in SPLITS:
            kept = filter(stays, load(folder, split, raw=True))
            write(kept, new, split, with_origin=has_origin(shards(folder, split)))
        keep_the_rest(folder, new)
        change = compare(folder, new)
        if not gone and not known:
            return change
        if gone and (card := new / CARD).is_file():
            runs.write_text(card, _without(card.read_text(), film if entity is None else None, len(gone)))
        where = tuple(sorted(set(seen), key=lambda place: (place.scene, place.frame, place.box)))
        stories = () if entity is None or where else tuple(gone)
        entry = Withdrawn(film=film, entity=entity, places=where, stories=stories)
        withdrawn.write(withdrawn.joined(withdrawn.read(folder), [entry]), new)
        check(new, name=folder)
        put(folder, new)
    return change


def shows(example: Example, film: str, entity: str | None) -> bool:
    """Whether a story is of this film, and has this entity, if one is named."""
    if film_of(example) != film:
        return False
    read, _ = analysis.read(example.chain_of_thought)
    return entity is None or any(row.id == entity for section in read.sections for row in section.entities)


def _without(card: str, film: str | None, gone: int) -> str:
    """A card without the row of a film, and with what was withdrawn."""
    lines = [line for line in card.split("\n") if film is None or not line.startswith(f"| {film} |")]
    return "\n".join(lines).rstrip("\n") + f"\n\nStories withdrawn after it was made: {gone}.\n"
