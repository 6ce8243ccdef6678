"""Withdrawal: the stories of a film, or those that show one of its people or things, leave a data set and stay away."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from storyreason import runs
from storyreason.dataset import withdrawn
from storyreason.dataset.changing import CARD, Change, Put, compare, counted, keep_the_rest, new_folder
from storyreason.dataset.checking import check
from storyreason.dataset.dividing import Division, by_film
from storyreason.dataset.shards import SPLITS, Example, has_origin, load, shards, write
from storyreason.dataset.withdrawn import Place, Withdrawn, film_of
from storyreason.errors import DataError
from storyreason.format import analysis
from storyreason.format.tables import markdown


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
    the film or entity is `known` from elsewhere. If a split loses all its stories, the rest is divided anew. Raises DataError,
    and changes nothing either, if that cannot be, or what remains does not pass `check`.
    """
    gone: list[str] = []
    seen, left = list(places), dict[str, dict[str, str]]()

    def stays(one: Example) -> bool:
        if not shows(one, film, entity):
            return True
        gone.append(one.story_id)
        seen.extend(withdrawn.places(one, entity) if entity is not None else ())
        return False

    with new_folder(folder) as new:
        for split in SPLITS:
            kept = filter(stays, load(folder, split, raw=True))
            told = left[split] = {}
            write((_noted(one, told) for one in kept), new, split, with_origin=has_origin(shards(folder, split)))
        division = None
        if gone and not all(left.values()):
            division = _divide(folder, new, {name: of for split in SPLITS for name, of in left[split].items()})
        keep_the_rest(folder, new)
        change = compare(folder, new)
        if not gone and not known:
            return change
        if gone and (card := new / CARD).is_file():
            stayed = any(film in left[split].values() for split in SPLITS)
            text = _without(card.read_text(), None if stayed else film, len(gone))
            runs.write_text(card, text if division is None else division.card(_moved(text, division, left)))
        where = tuple(sorted(set(seen), key=lambda place: (place.scene, place.frame, place.box)))
        stories = () if entity is None or where else tuple(gone)
        entry = Withdrawn(film=film, entity=entity, places=where, stories=stories)
        withdrawn.write(withdrawn.joined(withdrawn.read(folder), [entry]), new)
        check(new, name=folder)
        put(folder, new)
    return change


def _noted(one: Example, told: dict[str, str]) -> Example:
    told[one.story_id] = film_of(one)
    return one


def _divide(folder: Path, new: Path, of: Mapping[str, str]) -> Division:
    """Write the stories of a data set, by name with their films, as two splits. Raises DataError if they are of one film."""
    division = by_film(of)
    if division is None:
        raise DataError(
            f"{folder} would be left with stories that cannot be divided: it needs those of one film for training and of another "
            "for test. Add other films first (`storyreason data add`), and then withdraw."
        )
    with_origin = any(has_origin(shards(folder, split)) for split in SPLITS)
    for split in SPLITS:
        every = (one for before in SPLITS for one in load(folder, before, raw=True) if one.story_id in of)
        chosen = (one for one in every if (one.story_id in division.for_test) == (split == "test"))
        write(chosen, new, split, with_origin=with_origin)
    return division


def _moved(card: str, division: Division, left: Mapping[str, Mapping[str, str]]) -> str:
    """A card whose table of films, if it has one, says the new splits."""
    for split in SPLITS:
        for film in set(left[split].values()):
            now = "test" if film in division.films else "train"
            card = card.replace(f"\n{markdown([film, split])}", f"\n{markdown([film, now])}")
    return card


def shows(example: Example, film: str, entity: str | None) -> bool:
    """Whether a story is of this film, and has this entity, if one is named."""
    if film_of(example) != film:
        return False
    read, _ = analysis.read(example.chain_of_thought)
    return entity is None or any(row.id == entity for section in read.sections for row in section.entities)


def _without(card: str, film: str | None, gone: int) -> str:
    """A card without the row of a film, and with what was withdrawn."""
    rows = () if film is None else tuple(markdown([film, split]) for split in (*SPLITS, "none"))  # not the head
    lines = [line for line in card.split("\n") if not line.startswith(rows)]
    return counted("\n".join(lines), "withdrawn", gone)
