"""From films to a retraining by the commands that a user types, in a clone: the work of `building.py whole`."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
from storm import Clone

from storyreason import dataset
from storyreason.authoring.assembling import FilmStories
from storyreason.sample import movie

NANODET = Path(sys.prefix) / "share" / "nanodet"
"""Where `make nanodet` puts it."""
FILM, OTHER = 7, 8
"""Seeds of the made film, and of a short one for test: a data version needs stories of two films."""
SHORT = 8
"""Shots of the short one."""
LONGEST = 4096
"""Tokens of a story that `smoke` trains on: its 2,048 are enough for pictures of a quarter of the pixels that films have."""
STARTUP = 600.0
"""Seconds that the gateway may take until it serves the model."""
Row = dict[str, Any]


def whole(folder: Path, model: Path, clip: Path, detector: str, shots: int) -> Row:
    """The counts and seconds of the chain, in a clone in `folder`. Raises RuntimeError if one of its commands fails.

    `detector` sees the clip; empty: NanoDet where it is installed, else dlib's faces.
    """
    detector = detector or (f"nanodet:{NANODET}" if NANODET.is_dir() else "faces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that what runs in the clone is stopped, too
    chain = Chain(Clone.make(folder / "clone", dict(os.environ)))
    try:
        with chain.stage("film"):
            for seed, length in ((FILM, shots), (OTHER, SHORT)):
                movie.write(folder / "films", seed, length)
        chain.serve(model)
        seen = (f"films.detector=truth:{folder / 'films'}", "films.faces=none")
        chain.run("build the film", *_build(folder / "films", *seen), "--target", "films.dvc")
        why = chain.add(clip, f"films.detector={detector}")
        with chain.stage("stop serving"):
            chain.clone.run("down")
        chain.run("check", "check", "films")
        new = ("--set", "data.target=films.dvc", "--set", f"training.max_tokens={LONGEST}", "--until", "register")
        chain.run("retrain", "retrain", "smoke", *new)
        films = chain.films()
        films[clip.stem] = {"detector": detector.partition(":")[0], **films.get(clip.stem, NOTHING), **why}
        return {
            "model": hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()[:16],
            "shots": shots,
            "films": films,
            "data": {split: len(dataset.load(chain.data, split)) for split in dataset.SPLITS},
            "trained on": chain.trained(),
            "seconds": chain.seconds,
        }
    finally:
        chain.end()


NOTHING: Row = {"frames": 0, "in no window": 0, "windows": 0, "stories": 0, "left out": {}}
"""A film in which nothing was found."""


def _build(films: Path, *overrides: str) -> list[str]:
    return ["build", str(films), "--licence", "cc-by-4.0", *(word for one in overrides for word in ("--set", one))]


class Chain:
    """The commands in their clone, with the preset `sample`, and the seconds of each."""

    def __init__(self, clone: Clone) -> None:
        self.clone = clone
        self.data = clone.folder / "films"
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)
        print(f"{name}: {self.seconds[name]} s", flush=True)  # noqa: T201

    def run(self, stage: str, *arguments: str) -> None:
        with self.stage(stage):
            if code := self.clone.start(*arguments).wait():
                raise RuntimeError(f"storyreason {' '.join(arguments)} ended with {code}: {self.clone.said()}")

    def serve(self, model: Path) -> None:
        """Start the gateway, and wait until vLLM behind it serves the model."""
        with self.stage("serve"):
            process = self.clone.start(
                "serve", "sample", "--model", str(model.absolute()), "--set", f"serving.startup_timeout={STARTUP:g}"
            )
            deadline = time.monotonic() + STARTUP
            while not self._healthy():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the model is not served: {self.clone.said()}")
                time.sleep(1)

    def _healthy(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            url = f"http://127.0.0.1:{self.clone.port}/healthz"
            return httpx.get(url, timeout=60, trust_env=False).status_code == 200
        return False

    def add(self, clip: Path, *overrides: str) -> Row:
        """Build the clip, and add its stories to the data; why there are none, else nothing."""
        before = set(self.clone.runs.glob("assemble/*/data"))
        arguments = _build(clip, *overrides)
        with self.stage("build the clip"):
            code = self.clone.start(*arguments).wait()  # however long: the storm's commands may take 40 minutes
        if code:
            last = self.clone.said().strip().splitlines()[-1]
            if "No film " not in last:
                raise RuntimeError(f"storyreason {' '.join(arguments)} ended with {code}: {self.clone.said()}")
            print(last)  # noqa: T201
            return {"why": last[last.index("No film ") :].replace(str(clip), clip.name)}
        (made,) = set(self.clone.runs.glob("assemble/*/data")) - before
        self.run("add the clip", "data", "add", str(made), "--target", "films.dvc")
        return {}

    def films(self) -> Row:
        """Counts for each film: frames, frames in no window, windows, stories, and why the other windows were left out."""
        told = [FilmStories.from_json(one.read_text()) for one in self.clone.runs.glob("author/*/stories.json")]
        return {
            one.film: {
                "frames": one.frames,
                "in no window": one.left_over,
                "windows": len(one.stories) + len(one.left_out),
                "stories": len(one.stories),
                "left out": dict(Counter(f"{left.part}, {left.rule}" for left in one.left_out)),
            }
            for one in sorted(told, key=lambda one: one.film)
        }

    def trained(self) -> Row:
        """How many stories of the films the registered model was trained on. Raises RuntimeError unless they are of this data."""
        (register,) = self.clone.runs.glob("register/*/manifest.json")
        version = json.loads(register.read_text())
        names = json.loads((register.parent / "training_stories.json").read_text())
        pointed = (self.clone.folder / "films.dvc").read_text()
        if version["data_md5"] not in pointed or not set(names) <= set(dataset.load(self.data, "train").story_ids()):
            raise RuntimeError(f"version {version['number']} is of {version['data_md5']}, not of {pointed}")
        return {"stories": len(names), "model": version["name"], "version": version["number"]}

    def end(self) -> None:
        """Stop what runs in the clone."""
        self.clone.run("down")
        for process in self.clone.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self.clone.temporary, ignore_errors=True)
