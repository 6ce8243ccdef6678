"""Stories prepared for training once per data version and settings, kept on disk, and read by memory map.

    runs/prepared/<fingerprint>/answers         the tokens of all answers, one after the other, int32
                                image_tokens    the tokens of each picture, int32
                                pictures        the SHA-256 of each picture, 32 bytes
                                index.npz       where each story's part of them ends; its digest; its place in the data
                                stories.json    the stories' IDs, and which examples are bad and why
                                manifest.json   written last: the folder is complete

A training reads only what a step needs, so it starts with 100,000 stories as fast as with ten. Delete the folder at will.
"""

import hashlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from storyreason import chat, dataset, runs
from storyreason.format import grids
from storyreason.training import targets

if TYPE_CHECKING:
    from storyreason.training.config import TrainingConfig

VERSION = 2
"""Version of the files' content. Raising it prepares all data again."""
FLAT = {"answers": np.dtype(np.int32), "image_tokens": np.dtype(np.int32), "pictures": np.dtype("V32")}
"""The files that grow story by story, and what they hold."""
REPORT_EVERY = 30.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True, slots=True)
class PreparedStory:
    """One story, prepared for training."""

    story_id: str
    place: int
    """Its index in the data set."""
    image_tokens: tuple[int, ...]
    answer: np.ndarray
    """The tokens of its answer, int32 [tokens]."""
    pictures: tuple[str, ...]
    """The SHA-256 of its pictures."""


class Prepared(Sequence[PreparedStory]):
    """The usable stories of a data set, in its order."""

    def __init__(
        self, flat: Mapping[str, np.ndarray], index: Mapping[str, np.ndarray], ids: list[str], bad: list[dataset.Bad]
    ) -> None:
        self.ids = ids
        self.bad = bad
        self._flat = flat
        self._places, self._answers, self._images = index["places"], index["answer_ends"], index["image_ends"]
        self.digests: np.ndarray = index["digests"]
        """A digest of each story's ID, frame tokens, answer and pictures; uint8 [stories, 16]."""
        self.answer_tokens: np.ndarray = np.diff(self._answers, prepend=0)
        self.images: np.ndarray = np.diff(self._images, prepend=0)
        """How many pictures each story has, int64 [stories]."""
        counts = np.concatenate([[0], np.cumsum(flat["image_tokens"], dtype=np.int64)])
        self.image_tokens: np.ndarray = np.diff(counts[self._images], prepend=0)
        """Tokens of all pictures of each story, int64 [stories]."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: Any) -> Any:
        if row >= len(self):
            raise IndexError(row)
        start = (self._answers[row - 1], self._images[row - 1]) if row else (0, 0)
        words, pictures = slice(start[0], self._answers[row]), slice(start[1], self._images[row])
        return PreparedStory(
            self.ids[row],
            int(self._places[row]),
            tuple(self._flat["image_tokens"][pictures].tolist()),
            self._flat["answers"][words],
            tuple(bytes(one).hex() for one in self._flat["pictures"][pictures]),
        )

    @classmethod
    def of(cls, examples: Iterable[dataset.Example], encoder: chat.Encoder, config: "TrainingConfig") -> Self:
        """The same in memory, for a few stories."""
        files = {name: io.BytesIO() for name in FLAT}
        index, ids, bad = _fill(files, examples, encoder, config, lambda done: None)
        return cls({name: np.frombuffer(files[name].getbuffer(), kind) for name, kind in FLAT.items()}, index, ids, bad)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What `prepare` wrote. The flat files are mapped, not read."""
        listed = json.loads((folder / "stories.json").read_text())
        with np.load(folder / "index.npz") as file:
            index = {name: file[name] for name in file.files}
        bad = [dataset.Bad(*one) for one in listed["bad"]]
        return cls({name: _mapped(folder / name, kind) for name, kind in FLAT.items()}, index, listed["ids"], bad)


def prepare(
    folder: Path, examples: Iterable[dataset.Example], encoder: chat.Encoder, config: "TrainingConfig", **what: Any
) -> Prepared:
    """The prepared stories of a data version, made if they are missing; `what` identifies the version.

    All processes of a machine may ask at once: one makes them, the others wait.
    """
    name = fingerprint(encoder, config, **what)
    place = folder / name
    if runs.read_manifest(place) is None:
        with runs.lock(place, wait=float("inf")):
            if runs.read_manifest(place) is None:
                _write(place, examples, encoder, config, name)
    return Prepared.read(place)


def fingerprint(encoder: chat.Encoder, config: "TrainingConfig", **what: Any) -> str:
    """Depends on what decides the tokens: the data, the base's tokenizer and picture sizes, and how examples are cut."""
    cutting = {name for name in type(config).model_fields if name.startswith("drop_")} | {"max_images"}
    if config.boxes != grids.ORIGINAL:
        cutting.add("boxes")
    return runs.fingerprint(version=VERSION, encoder=encoder.identity(), **what, **config.model_dump(include=cutting))


def _write(
    folder: Path, examples: Iterable[dataset.Example], encoder: chat.Encoder, config: "TrainingConfig", name: str
) -> None:
    began = reported = time.monotonic()

    def report(done: int) -> None:
        nonlocal reported
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            sys.stderr.write(f"Preparing stories: {done} in {reported - began:.0f} s\n")

    files: dict[str, IO[bytes]] = {}
    try:
        for file_name in FLAT:
            files[file_name] = (folder / file_name).open("wb")
        index, ids, bad = _fill(files, examples, encoder, config, report)
    finally:
        for file in files.values():
            file.close()
    content = io.BytesIO()
    np.savez(content, **index)  # type: ignore[arg-type]
    runs.write_bytes(folder / "index.npz", content.getvalue())
    rows = [[one.split, one.story_id, one.image, one.reason] for one in bad]
    runs.write_text(folder / "stories.json", json.dumps({"ids": ids, "bad": rows}))
    runs.write_manifest(folder, files=(*FLAT, "index.npz", "stories.json"), fingerprint=name, stories=len(ids))


def _fill(
    files: Mapping[str, IO[bytes]],
    examples: Iterable[dataset.Example],
    encoder: chat.Encoder,
    config: "TrainingConfig",
    report: Callable[[int], None],
) -> tuple[dict[str, np.ndarray], list[str], list[dataset.Bad]]:
    """Write the flat files, and return the index, the stories' IDs, and the examples that cannot be used."""
    ids: list[str] = []
    bad: list[dataset.Bad] = []
    places: list[int] = []
    ends: dict[str, list[int]] = {"answer_ends": [0], "image_ends": [0]}
    digests: list[bytes] = []
    for place, example in enumerate(examples):
        report(place)
        seen = dataset.inspect(example, encoder)
        if (fault := seen.bad("train")) is not None:
            bad.append(fault)
            continue
        images, sizes = example.images[: config.max_images], seen.sizes[: config.max_images]
        target = targets.target(targets.cut(seen.answer, config.max_images), config, sizes)
        answer = np.asarray(encoder.answer(target), np.int32).tobytes()
        tokens = np.asarray(encoder.image_tokens(sizes), np.int32).tobytes()
        pictures = b"".join(hashlib.sha256(image).digest() for image in images)
        for name, content in (("answers", answer), ("image_tokens", tokens), ("pictures", pictures)):
            files[name].write(content)
        ids.append(example.story_id)
        places.append(place)
        ends["answer_ends"].append(ends["answer_ends"][-1] + len(answer) // 4)
        ends["image_ends"].append(ends["image_ends"][-1] + len(images))
        digest = hashlib.sha256(
            f"{example.story_id} {len(answer)} {len(tokens)} ".encode() + answer + tokens + pictures
        )
        digests.append(digest.digest()[:16])
    index: dict[str, np.ndarray] = {name: np.asarray(values[1:], np.int64) for name, values in ends.items()}
    index["places"] = np.asarray(places, np.int64)
    index["digests"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
    return index, ids, bad


def _mapped(path: Path, kind: np.dtype) -> np.ndarray:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, kind)
    return np.memmap(path, kind, "r")
