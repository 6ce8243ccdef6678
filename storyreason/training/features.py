"""The features of a frozen vision tower for each picture, computed once and cached on disk.

    runs/features/<tower>/3f/3fa1…     three numbers (the grid), then the features [tokens, size] as in memory

A file's name is the picture's SHA-256. The name of the tower's folder depends on its weights, its picture processor and its
dtype. No run computes anything twice, and no picture is decoded for a training step.
"""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from storyreason import architecture

if TYPE_CHECKING:
    from storyreason import chat
    from storyreason.training.examples import StoryDataset

HEADER = 3 * 8
"""Bytes of the grid: time, height and width in patches, int64."""
MEMORY = 2 * 2**30
"""Features are kept in memory up to this many bytes; the rest is read from disk each time."""
REPORT_EVERY = 30.0
"""Seconds between two lines of progress."""

Seen = tuple[torch.Tensor, torch.Tensor]
"""Features [tokens, size] of some pictures, and their grids [pictures, 3]."""


class Absent(torch.nn.Module):
    """Replaces a vision tower whose features are all cached: it has no weights and cannot run."""

    blocks: tuple[Any, ...] = ()
    """Liger iterates over them when the training begins, when the tower is gone already."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the vision tower was left out, and a batch has pictures without features")


def leave_out(holder: Any) -> torch.nn.ModuleDict:
    """Take the tower out of a base that gets only features from now on, and return it: its parts by their names."""
    tower = torch.nn.ModuleDict(architecture.towers(holder))
    for name in tower:
        setattr(holder, name, Absent())
    return tower


def put_back(base: Any, tower: torch.nn.ModuleDict, state_dict: dict[str, Any] | None = None) -> None:
    """Undo `leave_out`. The tower's weights are added to `state_dict`, which was taken from the base without it."""
    holder = architecture.inside(base)
    for part, module in tower.items():
        setattr(holder, part, module)
    if state_dict is not None:
        (name,) = (name for name, module in base.named_modules() if module is holder)
        state_dict.update({f"{name}.{key}": tensor for key, tensor in tower.state_dict().items()})


@dataclass(frozen=True)
class Share:
    """Which stories' features are cached, and how much that is."""

    stories: frozenset[int]
    validation: frozenset[int]
    pictures: int
    bytes: int
    wanted_bytes: int
    """For all stories; more than `bytes` if there is no room for some."""

    def line(self) -> dict[str, int]:
        """For `progress.jsonl`."""
        return {"pictures": self.pictures, "bytes": self.bytes, "wanted_bytes": self.wanted_bytes}


class FeatureCache:
    """The features of one tower's pictures."""

    def __init__(self, folder: Path, holder: Any, encoder: "chat.Encoder", device: torch.device, bf16: bool) -> None:
        """`holder` is the base's part that `architecture.inside` gives; `bf16`: a training step computes in bfloat16."""
        self.holder = holder
        self.tower = tuple(architecture.towers(holder).values())
        self.encoder = encoder
        self.device = device
        self.size = architecture.feature_size(holder.config)
        self.dtype = torch.bfloat16 if bf16 else self.tower[0].dtype
        self.folder = folder / self._name()
        self._kept: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._room = MEMORY

    def _name(self) -> str:
        """A name for the tower that depends on its weights, its dtype, and how pictures are processed for it."""
        digest = hashlib.sha256()
        weights = (item for part in self.tower for item in part.state_dict().items())
        for name, tensor in weights:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        settings = self.encoder.processor.image_processor.to_dict()
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        digest.update(str(self.dtype).encode())
        return digest.hexdigest()[:16]

    def path(self, picture: str) -> Path:
        """The file of a picture, by the hex digits of its SHA-256."""
        return self.folder / picture[:2] / picture

    def bytes_of(self, tokens: int) -> int:
        return HEADER + tokens * self.size * self.dtype.itemsize

    def missing(self, *parts: "StoryDataset") -> dict[int, int]:
        """The bytes of the pictures that are not there yet, by the story's place in the data."""
        found: dict[int, int] = {}
        for stories in parts:
            for index in range(len(stories)):
                if (place := stories.story(index).place) not in found:  # a story may be in several pairs
                    lacks = (one for one in _pictures(stories, index) if not self._is_whole(*one))
                    found[place] = sum(self.bytes_of(tokens) for _, tokens in lacks)
        return found

    def room(self, cap: float) -> int:
        """Bytes that may be added: up to `cap` GB with all that the tower has, but at most four fifths of the free space."""
        self.folder.mkdir(parents=True, exist_ok=True)
        there = sum(_size(file) for part in os.scandir(self.folder) for file in os.scandir(part))
        return max(0, int(min(cap * 1e9 - there, 0.8 * shutil.disk_usage(self.folder).free)))

    def share(
        self, stories: "StoryDataset", validation: "StoryDataset", missing: Mapping[int, int], room: int
    ) -> Share:
        """The stories whose features are there, and those whose `missing` bytes fit into `room`: first the validation stories,
        which every epoch needs, then the others in order."""
        wanted = used = added = pictures = 0
        chosen: list[list[int]] = [[], []]
        for part, of in ((chosen[1], validation), (chosen[0], stories)):
            counted: set[int] = set()  # a story may be in several pairs
            for index in range(len(of)):
                story = of.story(index)
                again = story.place in counted
                counted.add(story.place)
                size = 0 if again else sum(map(self.bytes_of, story.image_tokens))
                wanted += size
                added += 0 if again else missing[story.place]
                if added <= room or not missing[story.place]:
                    part.append(index)
                    used += size
                    pictures += 0 if again else len(story.image_tokens)
        return Share(frozenset(chosen[0]), frozenset(chosen[1]), pictures, used, wanted)

    def compute(
        self,
        stories: "StoryDataset",
        indices: Sequence[int],
        report: Callable[[int, int], None],
        stop: Callable[[], bool],
    ) -> int:
        """Compute what is missing, one story at a time, and return the number of pictures computed.

        `report` gets the stories done and their number from time to time; `stop` ends the work early.
        """
        reported, computed = time.monotonic(), 0
        home, training = next(self.tower[0].parameters()).device, self.tower[0].training
        for part in self.tower:
            part.to(self.device).eval()
        for done, index in enumerate(indices):
            if stop():
                break
            pictures = list(_pictures(stories, index))
            if all(self._is_whole(*one) for one in pictures):
                continue
            pixels, grids = stories.decode(index)
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, self.dtype == torch.bfloat16):
                seen = list(architecture.see(self.holder, pixels.to(self.device), grids.to(self.device)))
            for (picture, _), features, grid in zip(pictures, seen, grids, strict=True):
                self._write(picture, features, grid)
            computed += len(grids)
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                report(done + 1, len(indices))
        for part in self.tower:
            part.to(home).train(training)
        return computed

    def _is_whole(self, picture: str, tokens: int) -> bool:
        """Whether a picture's file is complete; one that a crash of the machine truncated is written again."""
        try:
            # Called for a million pictures: `Path` would take as long as the disk.
            return os.stat(f"{self.folder}/{picture[:2]}/{picture}").st_size == self.bytes_of(tokens)  # noqa: PTH116
        except FileNotFoundError:
            return False

    def _write(self, picture: str, features: torch.Tensor, grid: torch.Tensor) -> None:
        path = self.path(picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{picture}.{uuid.uuid4().hex}")  # process numbers are not unique across containers
        content = features.to(self.dtype).cpu().contiguous().view(torch.uint8).numpy().tobytes()
        temporary.write_bytes(grid.cpu().to(torch.int64).numpy().tobytes() + content)
        temporary.rename(path)

    def load(self, stories: "StoryDataset", index: int) -> Seen:
        """The concatenated features of a story's pictures, and their grids."""
        found = [self._one(picture) for picture, _ in _pictures(stories, index)]
        return torch.cat([features for features, _ in found]), torch.stack([grid for _, grid in found])

    def _one(self, picture: str) -> tuple[torch.Tensor, torch.Tensor]:
        if (kept := self._kept.get(picture)) is not None:
            return kept
        content = bytearray(self.path(picture).read_bytes())
        grid = torch.frombuffer(content[:HEADER], dtype=torch.int64)
        features = torch.frombuffer(content, dtype=self.dtype, offset=HEADER).view(-1, self.size)
        if len(content) <= self._room:
            self._room -= len(content)
            self._kept[picture] = features, grid
        return features, grid


def _size(file: "os.DirEntry[str]") -> int:
    """The size of a cached file; 0 for one that another training is writing, or has just renamed or removed."""
    try:
        return 0 if file.name.startswith(".") else file.stat().st_size
    except FileNotFoundError:
        return 0


def _pictures(stories: "StoryDataset", index: int) -> Iterator[tuple[str, int]]:
    """Name and tokens of each picture of a story."""
    story = stories.story(index)
    return zip(story.pictures, story.image_tokens, strict=True)
