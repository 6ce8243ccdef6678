"""LoRA adapters: merged into their base, with a count of what they change, or in a folder that names their base; whole weights
compared with their base."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyreason import architecture
from storyreason.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "base_model.model."
"""How PEFT begins the name of every weight of an adapter."""
RENAMED = (
    # transformers before 4.52 had the language model's layers and the tower of Qwen2-VL and Qwen2.5-VL here.
    (re.compile(r"^model\.(?!language_model\.|visual\.)"), "model.language_model."),
    (re.compile(r"^visual\."), "model.visual."),
)
NAMED = 3
"""How many weights a message names."""
FILE = "adapter_config.json"
"""A training result with this file is an adapter, otherwise whole weights."""
WEIGHTS = "adapter_model.safetensors"
BASE = "base.json"
"""In the model folder of an adapter: `{"name": "tiny-base", "revision": null, "identity": "0123456789abcdef"}`, its base. The
base's files are in `base/` beside it, a link, unless the name is one on the Hub."""


GIVEN = (".lora_A.", ".lora_magnitude_vector")
"""In the names of an adapter's weights that are not zero before it is trained: the base's own magnitudes, with DoRA."""


@dataclass(frozen=True)
class Adapter:
    """A model folder with an adapter instead of weights, and the base that it goes over."""

    folder: Path
    base: str
    """The base's folder, or its name on the Hub."""
    revision: str | None
    identity: str
    """Names the content of the base (`model.load_identity`)."""
    rank: int
    """The largest of its layers'."""
    dora: bool = False


def identity(folder: Path) -> str:
    """Names the content of the base that a model folder's adapter goes over; the base need not be there. Raises ModelError."""
    try:
        return str(json.loads((folder / BASE).read_text())["identity"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"The adapter {folder} cannot be read ({error!r}): make or fetch it again.") from None


def of(folder: Path | str) -> Adapter | None:
    """The adapter in a model folder; None for a folder with weights, and for a name on the Hub.

    Raises ModelError when its base is gone, or when its files cannot be read.
    """
    place = Path(folder)
    if not (place / BASE).is_file():
        return None
    try:
        base, config = json.loads((place / BASE).read_text()), json.loads((place / FILE).read_text())
        rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
        dora = bool(config.get("use_dora"))
        name, revision, identity = str(base["name"]), base["revision"], str(base["identity"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"The adapter {place} cannot be read ({error!r}): make or fetch it again.") from None
    link = place / "base"
    if (link / "config.json").is_file():
        return Adapter(place, str(link.resolve()), None, identity, rank, dora)
    if link.is_symlink() or link.exists():
        raise ModelError(
            f"The base of the adapter {place}, {name}, is gone from {link.resolve()}: fetch it, or train again."
        )
    return Adapter(place, name, revision, identity, rank, dora)


def in_tower(adapter: Adapter) -> bool:
    """Whether an adapter has weights of the vision tower or its merger. Raises ModelError for a damaged file."""
    return any(architecture.in_tower(key) for key, _ in _tensors([adapter.folder / WEIGHTS]))


def check(folder: Path) -> int:
    """How many weights of its base an adapter changes. Raises ModelError if there is none, or it cannot be read."""
    changed = sum(
        not any(one in key for one in GIVEN) and bool(_read(file, key).any())
        for key, (file, _) in _tensors([folder / WEIGHTS])
    )
    if not changed:
        raise ModelError(
            f"The adapter {folder} changes no weight of its base: its training has not begun, or was lost. Train it again."
        )
    return changed


def merge(base: Any, adapter: Path, name: str) -> tuple[Any, str]:
    """The model `base` with an adapter merged into it, and a sentence on what that changed.

    Weights of an adapter that an older version of transformers named are renamed. Raises ModelError, with `name` for the
    base, if the adapter cannot be read, if some of its weights belong to no layer of the base, or if it changes nothing.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    try:
        config = PeftConfig.from_pretrained(str(adapter))
        config.base_model_name_or_path = (
            None  # where the base was when it was trained; PEFT warns about every other place
        )
        total = sum(1 for _ in base.parameters())
        wrapped = get_peft_model(base, config)
        wanted = get_peft_model_state_dict(wrapped).keys()
        weights = _named_as(wanted, load_peft_weights(str(adapter), device="cpu"))
        if lost := sorted(weights.keys() - wanted):
            raise ModelError(
                f"{len(lost)} of the {len(weights)} weights of the adapter {adapter} belong to no layer of {name} "
                f"({', '.join(lost[:NAMED])} first): name the base that it was trained from."
            )
        set_peft_model_state_dict(wrapped, weights)
        merged = wrapped.merge_and_unload()
    except ModelError:
        raise
    except Exception as error:  # peft, safetensors and torch each raise their own
        reason = " ".join(str(error).split())[:400]
        raise ModelError(f"The adapter {adapter} does not fit the base model {name}: {reason}") from error
    changed = sum(bool(tensor.any()) for key, tensor in weights.items() if not any(one in key for one in GIVEN))
    if not changed:
        raise ModelError(
            f"The adapter {adapter} changes no weight of {name}: its training has not begun, or was lost. Train it again."
        )
    return merged, f"the adapter changes {changed} of {total} weights of {name}"


def _named_as(wanted: Any, weights: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """The weights of an adapter under the names that the base has for them; as they are, if these names fit no better."""
    renamed = {_renamed(key): tensor for key, tensor in weights.items()}
    return renamed if len(renamed.keys() & wanted) > len(weights.keys() & wanted) else weights


def _renamed(key: str) -> str:
    name = key.removeprefix(PREFIX)
    for pattern, new in RENAMED:
        name, times = pattern.subn(new, name, count=1)
        if times:
            break
    return PREFIX + name


def refuse_unchanged(base: str, revision: str | None, result: Path) -> None:
    """Raises ModelError if whole weights are those of their base: all of the same name are equal.

    Stops at the first weight that differs. A base whose files are not here, or are named otherwise, is not compared.
    """
    import torch

    shared = 0
    before = dict(_tensors(_files(base, revision)))
    for name, (file, key) in dict(_tensors(sorted(result.glob("*.safetensors")))).items():
        if name not in before:
            continue
        shared += 1
        old = _read(*before[name])
        new = _read(file, key)
        if old.shape != new.shape or not torch.equal(new.to(old.dtype), old):
            return
    if shared:
        raise ModelError(
            f"{result} has the weights of the base model {base}, unchanged: its training had no effect. Train for more steps, "
            "or with a higher training.learning_rate."
        )


def _files(base: str, revision: str | None) -> list[Path]:
    if Path(base).is_dir():
        return sorted(Path(base).glob("*.safetensors"))
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(base, revision=revision, local_files_only=True, allow_patterns="*.safetensors")
    except Exception:  # the Hub's client has many; without the files there is nothing to compare
        return []
    return sorted(Path(folder).glob("*.safetensors"))


def _tensors(files: list[Path]) -> Iterator[tuple[str, tuple[Path, str]]]:
    for file in files:
        with _opened(file) as opened:
            for key in opened.keys():  # noqa: SIM118 (not a mapping)
                yield key, (file, key)


def _read(file: Path, key: str) -> "Tensor":
    with _opened(file) as opened:
        found: Tensor = opened.get_tensor(key)
        return found


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            yield opened
    except SafetensorError as error:
        raise ModelError(f"The weights {file} are damaged ({error}): make or fetch them again.") from error
