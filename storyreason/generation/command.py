"""The command line of vLLM: which of its options our settings stand for, and which it is given as they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storyreason.architecture import Family
from storyreason.errors import EngineError
from storyreason.generation.config import OWN_OPTIONS, EngineConfig


def arguments(config: EngineConfig, on_cpu: bool) -> list[str]:
    """The options of `vllm serve` for these settings, beside model, name and address."""
    dtype = "float32" if config.dtype == "auto" and on_cpu else config.dtype
    chosen: dict[str, Any] = {
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "images_per_prompt": json.dumps({"image": config.images_per_prompt, "video": 0}),
        "dtype": dtype,
        **({} if on_cpu else {"gpu_memory": config.gpu_memory}),
        **_unless(1, tensor_parallel=config.tensor_parallel, data_parallel=config.data_parallel),
        **_unless(None, quantization=config.quantization),
        **_unless("auto", kv_cache_dtype=config.kv_cache_dtype),
    }
    names = {setting: name for name, setting in OWN_OPTIONS.items()}
    command = [text for setting, value in chosen.items() for text in (names[setting], str(value))]
    command += [*(["--enforce-eager"] if on_cpu else []), "--disable-uvicorn-access-log"]
    # By default the model folder's penalties and limits apply wherever a request names none. Its stop tokens apply all the same.
    return [*command, "--generation-config", "vllm", *config.extra_args]


def of_family(family: Family | None) -> list[str]:
    """The options that make an engine prompt a base, and cut its pictures, as this project does."""
    template, cutting = (family.template, family.pictures.settings) if family else (None, {})
    chosen = {"--chat-template": template, "--mm-processor-kwargs": json.dumps(cutting) if cutting else None}
    return [text for option, value in chosen.items() if value is not None for text in (option, value)]


def _unless(default: Any, **settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value != default}


def check(
    config: EngineConfig, gpus: Callable[[], int], model: Path | str | None = None, evaluates: bool = False
) -> None:
    """Raise EngineError if an engine with these settings cannot start on a machine with this many GPUs.

    Without GPUs, an evaluation (`evaluates`) can have several engines, and the gateway one. `gpus` is asked only where the
    settings want several. `model` is a model folder, if it is known by now; a Hub name is left to vLLM.
    """
    copies, parts = config.data_parallel, config.tensor_parallel
    if (wanted := copies * parts) == 1:
        return
    here = gpus()
    if evaluates and here == 0 and parts == 1:
        return
    named = config.devices.split(",") if config.devices and here else None
    if wanted > (len(named) if named else here):
        shown = f"serving.devices names {config.devices}" if named else f"this machine has {here or 'none'}"
        raise EngineError(
            f"serving.tensor_parallel={parts} times serving.data_parallel={copies} needs {wanted} GPUs, and {shown}: lower "
            "them, or serve on another machine."
        )
    if model is not None and (heads := _heads(Path(model))) and heads % parts:
        fitting = ", ".join(str(number) for number in range(1, heads + 1) if heads % number == 0)
        raise EngineError(
            f"serving.tensor_parallel={parts} does not divide the {heads} attention heads of {model}: use one of {fitting}."
        )


def _heads(folder: Path) -> int | None:
    try:
        read = json.loads((folder / "config.json").read_text())
        text = read.get("text_config") or read
        return int(text["num_attention_heads"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
