"""The disk that a retraining wants, from the size of its base: in a folder, under DVC, in the Hub's cache, or as the Hub says."""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from storyreason import home
from storyreason.config import RunConfig

LEAST = 5e9
"""Bytes that the smallest retraining wants: data, checkpoints and weights."""
CHECKPOINT = {"full": 12.0, "language": 12.0, "lora": 0.2}
"""Bytes of a checkpoint for each weight of the base: trained weights and AdamW's two moments, in float32; adapters are few."""
RESULT = {"full": 4.0, "language": 4.0, "lora": 0.1}
"""The same of a training's result."""
FEATURES = 20
"""Cached features take at most so many times the data: 1.2 MB for a frame of 575x240 at 7B, and less for smaller bases."""
PATIENCE = 10.0
"""Seconds that the Hub may take to say how large a base is."""


@dataclass(frozen=True)
class Base:
    """Bytes of a base's weights, how many of them are still to be fetched from the Hub, and those of one number."""

    bytes: int
    missing: int = 0
    each: int = 2


@dataclass(frozen=True)
class Wanted:
    """Bytes that a retraining takes at most."""

    runs: float
    """In `runs/`: checkpoints, results and weights."""
    features: float
    """Cached features of pictures: at most four fifths of what is free, so they leave too little for the rest."""
    fetched: float
    """In the Hub's cache."""


def wanted(config: RunConfig) -> Wanted | None:
    """What a retraining wants, or None when the size of its base is not known."""
    from storyreason.training.checkpoints import KEPT

    if (base := size(config)) is None:
        return None
    mode, numbers = config.training.mode, base.bytes / base.each
    adapter = mode == "lora" and config.registry.form == "adapter"
    one = numbers * (CHECKPOINT[mode] * (KEPT + 2) + RESULT[mode]) + (0 if adapter else base.bytes)
    trainings = 1 if config.improve.method == "none" else 2  # checkpoints stay until both are registered
    return Wanted(max(LEAST, trainings * one), _features(config), base.missing)


def size(config: RunConfig) -> Base | None:
    """The size of the base's weights, or None when neither this machine nor the Hub says it."""
    folder = home.folder() / config.base.name
    if folder.is_dir():
        return Base(sum(file.stat().st_size for file in folder.glob("*.safetensors")), each=_each(folder))
    if (under_dvc := _under_dvc(f"{config.base.name}.dvc")) is not None:
        return Base(under_dvc)
    return _cached(config.base.name, config.base.revision) or _on_hub(config.base.name, config.base.revision)


def _each(folder: Path) -> int:
    try:
        said = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):  # another look names it
        return 2
    return 4 if "float32" in (said.get("dtype"), said.get("torch_dtype")) else 2


def _under_dvc(target: str) -> int | None:
    """The bytes that a DVC file says its folder has."""
    try:
        found = yaml.safe_load((home.folder() / target).read_text())["outs"][0].get("size")
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError):  # another look names it
        return None
    return None if found is None else int(found)


def _cached(name: str, revision: str | None) -> Base | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(name, "model.safetensors.index.json", revision=revision)
    if isinstance(index, str):
        said = json.loads(Path(index).read_text())
        parts = [Path(index).with_name(part) for part in set(said["weight_map"].values())]
        total = int(said["metadata"]["total_size"])
        return Base(total, max(0, total - sum(part.stat().st_size for part in parts if part.is_file())))
    whole = try_to_load_from_cache(name, "model.safetensors", revision=revision)
    return Base(Path(whole).stat().st_size) if isinstance(whole, str) else None


def _on_hub(name: str, revision: str | None) -> Base | None:
    from huggingface_hub import HfApi

    try:
        said = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=PATIENCE).siblings
    except Exception:  # no network, no such model, no token: its client and what that asks with raise their own
        return None
    total = sum(one.size or 0 for one in said or () if one.rfilename.endswith(".safetensors"))
    return Base(total, total) if total else None


def _features(config: RunConfig) -> float:
    """The bound of the cache of features. The data of a preset for another data set may not be here yet."""
    if not config.training.freezes_tower():
        return 0.0
    data = None if config.data.source else _under_dvc(config.data.target)
    bound = config.training.feature_cache_gb * 1e9
    return bound if data is None else min(bound, FEATURES * data)
