"""Adapters over a base that stays in its vLLM process: which adapters vLLM takes, and how one is loaded at run time."""

import json

from storyreason import adapters
from storyreason.adapters import Adapter
from storyreason.errors import EngineError
from storyreason.generation.openai import call

BASE = "base"
"""What requests to the engine would call the base without an adapter. The gateway never does."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `--max-lora-rank`."""
AT_ONCE = 2
"""Adapters in one engine: the one that serves, and at times one that is about to."""
ALLOWED = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
"""The environment of an engine whose adapters change. Whoever reaches its port may change them: the gateway passes no such
request on."""


def room(adapter: Adapter) -> int:
    """The largest rank in an engine that starts with this adapter. Raises EngineError for one that vLLM does not take."""
    fitting = [rank for rank in RANKS if rank >= adapter.rank]
    wrong = (
        f"has rank {adapter.rank}, and vLLM takes {RANKS[-1]} at most"
        if not fitting
        else "was trained with DoRA, which vLLM does not take"
        if adapter.dora
        else "changes the vision tower, and vLLM gives other answers then"
        if adapters.in_tower(adapter)
        else None
    )
    if wrong:
        raise EngineError(f"The adapter {adapter.folder} {wrong}: merge it (registry.form=merged).")
    return fitting[0]


def arguments(adapter: Adapter, name: str) -> list[str]:
    """The options of `vllm serve` for the base of an adapter that requests call `name`."""
    module = json.dumps({"name": name, "path": str(adapter.folder), "base_model_name": BASE})
    options = ["--enable-lora", "--max-lora-rank", str(room(adapter)), "--max-loras", str(AT_ONCE)]
    return [*options, "--lora-modules", module, *(["--revision", adapter.revision] if adapter.revision else [])]


def load(url: str, name: str, adapter: Adapter) -> None:
    """Have the engine at `url` load one more adapter, which requests call `name`. Raises EngineError with vLLM's reason."""
    try:
        call("POST", url, "/v1/load_lora_adapter", None, {"lora_name": name, "lora_path": str(adapter.folder)})
    except EngineError as error:
        raise EngineError(f"vLLM does not take the adapter {adapter.folder}: {error}") from error


def unload(url: str, name: str) -> None:
    """Have the engine forget an adapter. Raises EngineError."""
    call("POST", url, "/v1/unload_lora_adapter", None, {"lora_name": name})
