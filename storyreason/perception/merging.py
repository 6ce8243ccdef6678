"""Merges groups of detections, the most probable pair first, and never two that share a frame.

Candidates are each group's nearest by face and by look, so that memory grows with the number of detections alone.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from storyreason.perception.evidence import Calibration, Groups, Stage
from storyreason.perception.film import Film

NEAREST = 20
"""Candidates of each group by face, and as many by look."""
NEIGHBOURS = 80
"""Candidates that a group keeps when it grows: the most probable ones."""
ROUNDS = 6
"""How often candidates are looked for at each stage, at most. Larger groups have better means, hence other neighbours."""


class Merging:
    """The groups of a film while they are merged. A group is named by its first detection.

    `apart` and `held` are pairs of detections: those that no group may hold both of, and those that begin as one group.
    """

    def __init__(
        self,
        film: Film,
        using: Calibration,
        apart: Sequence[tuple[int, int]] = (),
        held: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._film, self._using, self.groups = film, using, Groups(film)
        # Two groups with a common number are not merged: a frame, or a correction that keeps two detections apart.
        self._taken = [{frame} for frame in film.frames.tolist()]
        for number, pair in enumerate(apart, 1):
            for detection in pair:
                self._taken[detection].add(-number)
        self._alive = np.ones(len(film), bool)
        self._size = [1] * len(film)
        # The merges as a tree: leaves are detections, and each merge adds a node above two.
        self._node = list(range(len(film)))
        self._above = [-1] * len(film)
        self._weak = [np.inf] * len(film)
        for pair in held:
            self.unite(*pair)

    def run(self, stage: Stage) -> None:
        """Merge all groups that are more probably the same than not, within scenes or over the film."""
        self.groups.measure(stage)
        for _ in range(ROUNDS):
            i, j = self.candidates(stage)
            if not len(i) or not self._merge(stage, i, j):
                return

    def unite(self, one: int, other: int) -> bool:
        """Join the groups of two detections, as certain. False if they share a frame."""
        roots = self.roots()
        low, high = sorted((int(roots[one]), int(roots[other])))
        if low == high:
            return True
        if not self._taken[low].isdisjoint(self._taken[high]):
            return False
        self.join(low, high, 1.0)
        return True

    def roots(self) -> np.ndarray:
        """For each detection the first one of its group."""
        top = list(range(len(self._above)))
        for node in reversed(range(len(top))):
            if self._above[node] >= 0:
                top[node] = top[self._above[node]]
        first: dict[int, int] = {}
        return np.array([first.setdefault(node, at) for at, node in enumerate(top[: len(self._film)])])

    def probabilities(self) -> np.ndarray:
        """As in `Entities`."""
        lowest = list(self._weak)
        for node in reversed(range(len(lowest))):
            if self._above[node] >= 0:
                lowest[node] = min(lowest[node], lowest[self._above[node]])
        found = np.array(lowest[: len(self._film)], np.float32)
        found[np.isinf(found)] = np.nan
        return found

    def candidates(self, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of groups to compare: i < j, of one label, nearest to one another by face or look, without a common frame."""
        groups, found = self.groups, [np.zeros(0, np.int64)]
        alive = np.flatnonzero(self._alive)
        for sums, weights in ((groups.faces, groups.face_weights), (groups.looks, groups.look_weights)):
            for rows in self._comparable(stage, alive[weights[alive] > 0]):
                one, other = nearest(sums[rows] if len(rows) > NEAREST + 1 else rows, NEAREST)
                found.append(rows[one] * len(self._film) + rows[other])
        i, j = np.divmod(np.unique(np.concatenate(found)), len(self._film))
        taken = self._taken
        free = [taken[one].isdisjoint(taken[other]) for one, other in zip(i.tolist(), j.tolist(), strict=True)]
        return i[free], j[free]

    def _comparable(self, stage: Stage, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The groups by label, and at the first stage by scene."""
        labels = self.groups.labels[rows]
        scenes = self._film.scenes[rows] if stage == "scene" else np.zeros(len(rows), np.int64)
        order = np.lexsort((rows, labels, scenes))
        new = (np.diff(labels[order]) != 0) | (np.diff(scenes[order]) != 0)
        yield from (part for part in np.split(rows[order], np.flatnonzero(new) + 1) if len(part) > 1)

    def _merge(self, stage: Stage, i: np.ndarray, j: np.ndarray) -> int:
        """Merge pairs, the most probable first, until none is more probable than not. Returns how many were merged."""
        case, features = self.groups.compare(i, j)
        logits = self._using.logits(stage, case, features)
        near: dict[int, set[int]] = defaultdict(set)
        for one, other in zip(i.tolist(), j.tolist(), strict=True):
            near[one].add(other)
            near[other].add(one)
        likely = logits > 0
        # Of equally probable pairs, the one that appears first. A group that has grown since makes an entry void.
        waiting = [
            (-logit, one, other, self._size[one], self._size[other])
            for logit, one, other in zip(logits[likely].tolist(), i[likely].tolist(), j[likely].tolist(), strict=True)
        ]
        heapq.heapify(waiting)
        merged = 0
        while waiting:
            logit, one, other, size, other_size = heapq.heappop(waiting)
            if self._size[one] != size or self._size[other] != other_size:
                continue
            self.join(one, other, 1 / (1 + np.exp(logit)))
            merged += 1
            for better, neighbour in self._neighbours(stage, near, one, other):
                low, high = sorted((one, neighbour))
                heapq.heappush(waiting, (-better, low, high, self._size[low], self._size[high]))
        return merged

    def _neighbours(self, stage: Stage, near: dict[int, set[int]], one: int, gone: int) -> Iterator[tuple[float, int]]:
        """Compare a group that has just grown by another with what is near to either: logit and group where it is likely."""
        around = near[one] | near.pop(gone)
        around -= {one, gone}
        taken, kept = self._taken[one], []
        for neighbour in sorted(around):
            near[neighbour].discard(gone)
            if taken.isdisjoint(self._taken[neighbour]):
                near[neighbour].add(one)
                kept.append(neighbour)
            else:
                near[neighbour].discard(one)
        near[one] = set(kept)
        if not kept:
            return
        others = np.array(kept)
        logits = self._using.logits(stage, *self.groups.compare(one, others))
        if len(kept) > NEIGHBOURS:
            best = np.argsort(-logits, kind="stable")
            for neighbour in others[best[NEIGHBOURS:]].tolist():
                near[one].discard(neighbour)
                near[neighbour].discard(one)
            others, logits = others[best[:NEIGHBOURS]], logits[best[:NEIGHBOURS]]
        likely = logits > 0
        yield from zip(logits[likely].tolist(), others[likely].tolist(), strict=True)

    def join(self, one: int, other: int, probability: float) -> None:
        """Make two groups one, named by `one`, the earlier of the two."""
        self.groups.add(one, other)
        larger, smaller = sorted((self._taken[one], self._taken[other]), key=len, reverse=True)
        larger |= smaller
        self._taken[one], self._taken[other] = larger, set()
        self._alive[other] = False
        weaker = other if self._size[other] <= self._size[one] else one
        self._weak[self._node[weaker]] = float(probability)
        self._above[self._node[one]] = self._above[self._node[other]] = len(self._above)
        self._node[one] = len(self._above)
        self._above.append(-1)
        self._weak.append(np.inf)
        self._size[one] += self._size[other]
        self._size[other] = 0


def nearest(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows (i < j) of which one is among the `count` of the other with the highest cosine; all if there are few.

    Rows are compared in blocks, so that memory does not grow with their square.
    """
    total = len(vectors)
    if total <= count + 1:
        return np.triu_indices(total, 1)
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found = []
    step = max(1, 2**22 // total)
    for start in range(0, total, step):
        cosines = units[start : start + step] @ units.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        near = np.argpartition(cosines, total - count, axis=1)[:, total - count :]
        one, other = np.repeat(start + own, count), near.reshape(-1)
        found.append(np.minimum(one, other) * total + np.maximum(one, other))
    low, high = np.divmod(np.unique(np.concatenate(found)), total)
    return low, high
