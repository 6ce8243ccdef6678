"""Language metrics of the COCO caption toolkit with each story as one caption: BLEU, ROUGE-L, METEOR, CIDEr.

The values equal those of the toolkit (pycocoevalcap 1.2) up to rounding, but are computed from sums, which makes
bootstrap intervals possible. Texts are tokenized once for all metrics.
"""

import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from storyreason.format.story import without_tags
from storyreason.scoring.java import Meteor, tokenize
from storyreason.scoring.metrics import divide

CIDER_MOST = 5000
"""The most stories for which CIDEr is computed: it holds the n-grams of all stories in memory."""
_BETA = 1.2
_SIGMA = 6.0


def ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    """How often each n-gram of one to four words occurs."""
    runs: Counter[tuple[str, ...]] = Counter()
    for n in range(1, 5):
        runs.update(zip(*(words[start:] for start in range(n)), strict=False))
    return runs


def count(
    reference: str, text: str, of_reference: Counter[tuple[str, ...]], of_text: Counter[tuple[str, ...]]
) -> dict[str, float]:
    """One story's counts for BLEU (Papineni et al. 2002), and its ROUGE-L (Lin 2004), from tokenized texts."""
    right = [0, 0, 0, 0]
    for run, number in of_text.items():
        right[len(run) - 1] += min(number, of_reference[run])
    words = len(text.split())
    return {
        "paper/bleu/words": words,
        "paper/bleu/reference_words": len(reference.split()),
        **{f"paper/bleu/right_{n}": right[n - 1] for n in range(1, 5)},
        **{f"paper/bleu/ngrams_{n}": max(0, words - n + 1) for n in range(1, 5)},
        "paper/ROUGE-L": _rouge(reference.split(" "), text.split(" ")),
    }


def _rouge(reference: list[str], text: list[str]) -> float:
    from rapidfuzz.distance import LCSseq

    common = LCSseq.similarity(reference, text)
    precision, recall = common / len(text), common / len(reference)
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision) if common else 0.0


def meteor(statistics: Sequence[float]) -> dict[str, float]:
    """One story's counts for METEOR 1.5 (Denkowski and Lavie 2014), from the 23 statistics that its program returns.

    These are the lengths and the function words of both sides; the content and function matches of both sides by exact
    form, stem, synonym and paraphrase; chunks; the matched words of both sides.
    """
    words, reference_words, function_words, reference_function_words = statistics[:4]
    modules = np.reshape(statistics[4:20], (4, 4))
    chunks, matched, reference_matched = statistics[20:]
    weights, delta = np.array([1.0, 0.6, 0.8, 0.6]), 0.75
    whole = chunks == 1 and matched == words and reference_matched == reference_words
    return {
        "paper/meteor/right": float(weights @ (delta * modules[:, 0] + (1 - delta) * modules[:, 2])),
        "paper/meteor/words": delta * (words - function_words) + (1 - delta) * function_words,
        "paper/meteor/found": float(weights @ (delta * modules[:, 1] + (1 - delta) * modules[:, 3])),
        "paper/meteor/reference_words": delta * (reference_words - reference_function_words)
        + (1 - delta) * reference_function_words,
        "paper/meteor/chunks": 0.0 if whole else chunks,  # as in METEOR's own program
        "paper/meteor/matches": (matched + reference_matched) / 2,
    }


class Cider:
    """CIDEr-D (Vedantam et al. 2015), computed once all stories are known.

    N-grams are stored as 64-bit hashes; among five million n-grams a collision occurs once in a million runs.
    """

    def __init__(self) -> None:
        self._texts: list[tuple[np.ndarray, ...]] = []

    def put(self, of_reference: Counter[tuple[str, ...]], of_text: Counter[tuple[str, ...]]) -> None:
        self._texts.append((*_arrays(of_reference), *_arrays(of_text)))

    def close(self) -> np.ndarray:
        """The score of each story: [stories], float64."""
        documents, occurrences = np.unique(np.concatenate([keys for keys, *_ in self._texts]), return_counts=True)
        most = math.log(len(self._texts))

        def weigh(keys: np.ndarray, numbers: np.ndarray) -> np.ndarray:
            if not len(documents):
                return numbers * most
            at = np.minimum(np.searchsorted(documents, keys), len(documents) - 1)
            weighed: np.ndarray = numbers * (most - np.log(np.where(documents[at] == keys, occurrences[at], 1)))
            return weighed

        scores = np.zeros(len(self._texts))
        for i, (keys, numbers, orders, other_keys, other_numbers, other_orders) in enumerate(self._texts):
            ours, theirs = weigh(keys, numbers), weigh(other_keys, other_numbers)
            _, here, there = np.intersect1d(keys, other_keys, assume_unique=True, return_indices=True)
            products = np.minimum(theirs[there], ours[here]) * ours[here]
            dot = np.bincount(orders[here], products, 4)
            norms = np.sqrt(np.bincount(orders, ours**2, 4) * np.bincount(other_orders, theirs**2, 4))
            length = other_numbers[other_orders == 1].sum() - numbers[orders == 1].sum()
            scores[i] = 10 * np.mean(divide(dot, norms, 0.0)) * math.exp(-(length**2) / (2 * _SIGMA**2))
        return scores


def _arrays(runs: Counter[tuple[str, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    keys = np.fromiter(map(hash, runs), np.int64, len(runs))
    numbers = np.fromiter(runs.values(), float, len(runs))
    return keys, numbers, np.fromiter((len(run) - 1 for run in runs), np.int8, len(runs))


class Counting:
    """Counts the text of stories block by block.

    A thread tokenizes each block while the caller does other work. METEOR, if given, receives each text as soon as it is
    tokenized, and runs alongside until `close`.
    """

    def __init__(self, meteor: Meteor | None) -> None:
        self._meteor = meteor
        self._beside = ThreadPoolExecutor(1)
        self._cider: Cider | None = Cider()
        self._stories = 0

    def begin(self, texts: Sequence[tuple[str, str]]) -> "Future[list[tuple[str, str]]]":
        """Start tokenizing pairs of reference and answer, both with tags. Returns the future that `count` takes."""
        return self._beside.submit(self._tokenize, texts)

    def _tokenize(self, texts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        tokenized = tokenize([without_tags(text).strip() for pair in texts for text in pair])
        pairs = list(zip(tokenized[::2], tokenized[1::2], strict=True))
        if self._meteor:
            for reference, text in pairs:
                self._meteor.put(reference, text)
        return pairs

    def count(self, tokenized: "Future[list[tuple[str, str]]]") -> list[dict[str, float]]:
        """The counts of a block of stories, from the future that `begin` returned."""
        pairs = tokenized.result()
        self._stories += len(pairs)
        if self._stories > CIDER_MOST:
            self._cider = None
        rows = []
        for reference, text in pairs:
            of_reference, of_text = ngrams(reference.split()), ngrams(text.split())
            rows.append(count(reference, text, of_reference, of_text))
            if self._cider:
                self._cider.put(of_reference, of_text)
        return rows

    def close(self) -> dict[str, np.ndarray]:
        """The columns that need all stories, CIDEr's and METEOR's: [stories] each."""
        self._beside.shutdown()
        late: dict[str, np.ndarray] = {}
        if self._cider and self._stories:
            late["paper/CIDEr"] = self._cider.close()
        if self._meteor:
            rows = [meteor(statistics) for statistics in self._meteor.close()]
            late |= {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}
        return late
