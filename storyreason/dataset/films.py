"""Films and the validation part: which stories of `train` choose the best checkpoint, and are not trained on."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from storyreason.errors import DataError

log = logging.getLogger(__name__)

VALIDATION_SHARE = 0.05


def films(story_ids: Sequence[str], mapping: Mapping[str, str] | None = None) -> dict[str, str]:
    """Each story's film: as `mapping` says, else what stands before the ID's last `-`, else the story itself."""
    if mapping is not None:
        missing = [story_id for story_id in story_ids if story_id not in mapping]
        if missing:
            raise DataError(
                f"The film mapping lacks {len(missing)} of {len(story_ids)} stories, {missing[0]} first: "
                "add them, or leave the mapping out."
            )
        return {story_id: mapping[story_id] for story_id in story_ids}
    named = {story_id: story_id.rpartition("-")[0] for story_id in story_ids}
    if not all(named.values()):
        log.warning(
            "Story IDs name no film (`film-k`) and there is no film mapping: the validation part is cut by story."
        )
        return {story_id: story_id for story_id in story_ids}
    return named


def validation_ids(
    story_ids: Sequence[str], mapping: Mapping[str, str] | None = None, share: float = VALIDATION_SHARE
) -> frozenset[str]:
    """The stories of train's validation part: the films whose SHA-256 hash lies in the lowest `share` of all hashes.

    A film's part never changes when others join, unless there are so few that one part would be empty: of several films
    at least one is chosen and one is not; a single one is not chosen.
    """
    film_of = films(story_ids, mapping)
    # The first eight hex digits as a number from 0 to 1.
    place = {film: int(hashlib.sha256(film.encode()).hexdigest()[:8], 16) / 2**32 for film in set(film_of.values())}
    chosen = {film for film, at in place.items() if at < share}
    if not chosen and len(place) > 1:
        chosen = {min(place, key=lambda film: place[film])}
    if len(chosen) == len(place):
        chosen.discard(max(place, key=lambda film: place[film]))
    return frozenset(story_id for story_id, film in film_of.items() if film in chosen)


def film_mapping(path: Path) -> dict[str, str]:
    """A film mapping from a JSON file: `{"story 1": "film a", ...}`. Raises DataError when it is something else."""
    try:
        mapping = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); wanted an object from story ID to film.") from error
    if not isinstance(mapping, dict) or not all(isinstance(film, str) for film in mapping.values()):
        raise DataError(f"{path} holds something else; wanted a JSON object from story ID to film.")
    return mapping
