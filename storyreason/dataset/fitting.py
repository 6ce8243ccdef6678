"""Whether a base model can take a data set that has been checked: pictures by their size, texts by their special tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storyreason.dataset.checking import Bad, refuse_many, special_told, unfit
from storyreason.dataset.shards import SPLITS, load, sizes
from storyreason.errors import DataError

if TYPE_CHECKING:
    from storyreason.chat import Encoder


@dataclass(frozen=True, slots=True)
class Fit:
    """What of a data set a base cannot take, or takes in another way than it is written."""

    bad: tuple[Bad, ...]
    """The stories with a picture that the base cannot take, and those with one whose header cannot be read."""
    special: Mapping[str, tuple[str, ...]]
    """The stories whose texts contain a special token of the base, by token. It is encoded as plain text."""

    def sentences(self) -> list[str]:
        """What there is to say, one sentence for each fault; none if all fits."""
        return [*map(str, self.bad), *special_told(self.special)]


def fit(folder: Path | str, encoder: "Encoder") -> Fit:
    """Compares every example of a data set with a base. Reads the headers of the pictures and decodes none.

    Raises DataError if the base cannot take more than 1 % of the stories.
    """
    bad: list[Bad] = []
    special: dict[str, list[str]] = {}
    total = 0
    for split in SPLITS:
        for example in load(folder, split):
            total += 1
            for token in encoder.special_in(f"{example.chain_of_thought}\n{example.story}"):
                special.setdefault(token, []).append(example.story_id)
            try:
                faults = unfit(sizes(example), encoder)
            except DataError as error:
                faults = [(None, str(error))]
            bad += [Bad(split, example.story_id, *fault) for fault in faults[:1]]
    refuse_many(folder, bad, total)
    return Fit(tuple(bad), {token: tuple(ids) for token, ids in special.items()})
