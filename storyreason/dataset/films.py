"""Films and the validation set: the stories of `train` that select the best checkpoint and are not trained on."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from storyreason.errors import DataError

log = logging.getLogger(__name__)

VALIDATION_SHARE, TEST_SHARE = 0.05, 0.15
"""How many films are for validation, and for test where a data set does not say which."""


def films(story_ids: Sequence[str], mapping: Mapping[str, str] | None = None) -> dict[str, str]:
    """The film of each story: from `mapping` if given, else the part of the ID before the last `-`, else the story itself."""
    if mapping is not None:
        missing = [story_id for story_id in story_ids if story_id not in mapping]
        if missing:
            raise DataError(
                f"The film mapping lacks {len(missing)} of {len(story_ids)} stories, starting with {missing[0]}: "
                "add them, or omit the mapping."
            )
        return {story_id: mapping[story_id] for story_id in story_ids}
    named = {story_id: story_id.rpartition("-")[0] for story_id in story_ids}
    return named if all(named.values()) else {story_id: story_id for story_id in story_ids}


def validation_ids(
    story_ids: Sequence[str], mapping: Mapping[str, str] | None = None, share: float = VALIDATION_SHARE
) -> frozenset[str]:
    """The validation stories of `train`: those of films whose SHA-256 is in the lowest `share` of all possible hashes.

    Adding films never moves other films between training and validation, unless there are so few that one of the two
    would be empty: with several films at least one is chosen and at least one is not; a single film is not chosen.
    """
    film_of = films(story_ids, mapping)
    if mapping is None and not all(story_id.rpartition("-")[0] for story_id in story_ids):
        log.warning(
            "Story IDs do not contain a film (`film-k`) and there is no film mapping: the validation set is split by story."
        )
    # The first eight hex digits as a number in 0..1.
    place = {film: int(hashlib.sha256(film.encode()).hexdigest()[:8], 16) / 2**32 for film in set(film_of.values())}
    chosen = {film for film, at in place.items() if at < share}
    if not chosen and len(place) > 1:
        chosen = {min(place, key=lambda film: place[film])}
    if len(chosen) == len(place):
        chosen.discard(max(place, key=lambda film: place[film]))
    return frozenset(story_id for story_id, film in film_of.items() if film in chosen)


def for_testing(films: Sequence[str], share: float = TEST_SHARE) -> frozenset[str]:
    """The films whose stories are for test: those whose SHA-256 is in the lowest `share` of all possible hashes.

    Adding films never moves others, unless there are so few that one of the splits would be empty; a film alone is for
    training.
    """
    place = {film: place_for_test(film) for film in films}
    chosen = {film for film, at in place.items() if at < share}
    if len(place) > 1 and share and not chosen:
        chosen = {min(place, key=lambda film: place[film])}
    if chosen and len(chosen) == len(place):
        chosen.discard(max(place, key=lambda film: place[film]))
    return frozenset(chosen)


def place_for_test(film: str) -> float:
    """Where among all possible hashes that of a film is, 0 to 1: below the share it is for test."""
    return int(hashlib.sha256(f"test {film}".encode()).hexdigest()[:8], 16) / 2**32


def film_mapping(path: Path) -> dict[str, str]:
    """Reads a film mapping from a JSON file: `{"story 1": "film a", ...}`. Raises DataError for anything else."""
    try:
        mapping = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as JSON ({error}); it must be an object from story ID to film."
        ) from error
    if not isinstance(mapping, dict) or not all(isinstance(film, str) for film in mapping.values()):
        raise DataError(f"{path} is not a JSON object from story ID to film.")
    return mapping
