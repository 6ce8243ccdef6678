"""The data set: examples in parquet shards in the Hub's layout, checks before use, films and the validation set.

>>> from storyreason import dataset
>>> example = dataset.load("data", "test")[0]
>>> example.story_id, dataset.sizes(example)
('black-bicycle-481-1', [(196, 112), (196, 112), (196, 112), (196, 112), (196, 112)])
"""

from storyreason.dataset.changing import Change, adopt, append, compare
from storyreason.dataset.checking import MAX_BAD, Bad, Inspected, Report, check, inspect, refuse_many
from storyreason.dataset.exchange import as_dataset, fetched
from storyreason.dataset.films import film_mapping, films, validation_ids
from storyreason.dataset.fitting import Fit, fit
from storyreason.dataset.origin import Origin
from storyreason.dataset.shards import COLUMNS, SPLITS, Example, Split, load, shards, sizes, write
from storyreason.dataset.withdrawing import withdraw
from storyreason.dataset.withdrawn import Withdrawn

__all__ = [
    "COLUMNS", "MAX_BAD", "SPLITS", "Bad", "Change", "Example", "Fit", "Inspected", "Origin", "Report", "Split",
    "Withdrawn", "adopt", "append", "as_dataset", "check", "compare", "fetched", "film_mapping", "films", "fit", "inspect",
    "load", "refuse_many", "shards", "sizes", "validation_ids", "withdraw", "write",
]  # fmt: skip
