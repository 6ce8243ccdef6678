"""Models on disk: load a base, identify it by its content, write the folder that is evaluated, served and published."""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from storyreason import adapters, architecture, runs
from storyreason.compat import models
from storyreason.errors import ModelError
from storyreason.format import grids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

CONTENT = (".json", ".jinja", ".safetensors", ".bin", ".txt", ".model")
"""Suffixes of the files that define a model, unlike a README or `.gitattributes`."""

PROMPT = "storyreason.json"
"""The file that says how the model was prompted in training, and what its boxes count where that is not pixels of the original
pictures: `{"images_first": false, "boxes": "thousandths"}`. It is copied from a training's result into the model folder, and
with that to the Hub."""

Dtype = Literal["auto", "float32", "bfloat16"]


def load_identity(base: str, revision: str | None = None) -> str:
    """Identifies a base model by its content: 16 hex digits from a folder's files, or from the commit of a name on the Hub.

    Raises ModelError when there is no such folder or name.
    """
    folder = Path(base)
    if folder.is_dir():
        digest = hashlib.sha256()
        files = sorted(path for path in folder.iterdir() if path.suffix in CONTENT and not path.name.startswith("."))
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} is not a model folder: it has no config.json.")
        for path in files:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]
    return runs.fingerprint(base=base, commit=models.commit_of(config(base, revision)) or revision)


def said(base: str) -> str:
    """A model as cards name it: a folder's own name, or the name on the Hub, and what identifies its content.

    Raises ModelError as `load_identity` does.
    """
    return f"{Path(base).resolve().name if Path(base).is_dir() else base} ({load_identity(base)})"


def config(base: str, revision: str | None = None) -> Any:
    """transformers' configuration of a base. Raises ModelError when it cannot be loaded, or lacks a part."""
    from transformers import AutoConfig, PretrainedConfig

    try:
        found = AutoConfig.from_pretrained(base, revision=revision)
        written, _ = PretrainedConfig.get_config_dict(base, revision=revision)
    except Exception as error:  # the Hub's client, transformers and json each raise their own
        raise _unloadable(base, error) from error
    if found.model_type in architecture.FAMILIES:
        _refuse_incomplete(base, found, written)
    return found


def _refuse_incomplete(base: str, found: Any, written: dict[str, Any]) -> None:
    """transformers fills in what is missing with the sizes of some published model, and would make that in memory."""
    # The first Qwen2.5-VL have the language model's sizes beside `vision_config`.
    there = {
        "vision_config": "vision_config" in written,
        "text_config": {"text_config", "hidden_size"} & written.keys(),
    }
    if missing := [name for name, of_it in there.items() if not of_it]:
        raise ModelError(
            f"The base model {base} is a {architecture.of(found).name}, and its config.json lacks {' and '.join(missing)}: "
            "fetch its files again."
        )


def _unloadable(base: str, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())
    return ModelError(f"The base model {base} cannot be loaded: {type(error).__name__}: {reason[:400]}")


def family(base: str, revision: str | None = None) -> architecture.Family:
    """The family of a base. Raises ModelError when it cannot be loaded, and when it is of none."""
    return architecture.of(config(base, revision), base)


def load_processor(base: str, revision: str | None = None) -> Any:
    """The base's processor: tokenizer, image processor, and the chat template of its family.

    Raises ModelError with the reason.
    """
    from transformers import AutoProcessor

    kind = family(base, revision)
    try:
        processor = AutoProcessor.from_pretrained(base, revision=revision)
    except Exception as error:
        raise _unloadable(base, error) from error
    for part in ("tokenizer", "image_processor", "image_token_id", kind.pictures.needed):
        if not hasattr(processor, part):
            raise ModelError(
                f"The base model {base} has no {part} in its processor ({type(processor).__name__}): its files are not those of "
                f"{kind.name}. Take all of them from one place."
            )
    if kind.template is not None:
        processor.chat_template = kind.template
    kind.pictures.settle(processor)
    return processor


def known_family(base: str, revision: str | None = None) -> architecture.Family | None:
    """The family of what an engine is given (a folder, or a name on the Hub); None for any other, which it may know.

    Raises ModelError when there is no such base.
    """
    file = Path(base) / "config.json"
    if not file.is_file():
        kind = config(base, revision).model_type
    else:
        try:
            kind = str(json.loads(file.read_text())["model_type"])
        except (ValueError, KeyError, TypeError):  # the engine says what is wrong with it
            return None
    return architecture.FAMILIES.get(kind)


def load(
    base: str,
    revision: str | None = None,
    dtype: Dtype = "auto",
    attention: str | None = None,
    quantization: Any = None,
) -> "PreTrainedModel":
    """The base's weights on the CPU. `attention` as transformers names it; None: its default. `quantization` is
    transformers' configuration of one; the weights are then where it puts them.

    Raises ModelError with the reason, also where weights are missing, which transformers would fill at random.
    """
    from transformers import AutoModelForImageTextToText

    family(base, revision)  # refuses others before their weights are read
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            base,
            revision=revision,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            quantization_config=quantization,
        )
    except Exception as error:
        raise _unloadable(base, error) from error
    found, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"The base model {base} lacks {len(missing)} of its weights, such as {missing[0]}: fetch its files again, all from "
            "one place."
        )
    made: PreTrainedModel = found
    return made


def write_folder(
    base: str,
    result: Path,
    out: Path,
    card: str,
    revision: str | None = None,
    dtype: Dtype = "auto",
    say: Callable[[str], None] = log.info,
) -> Path:
    """Write the model folder `out`: weights, processor, chat template, generation config and `card` as README.md.

    `result` is what training left: whole weights, or an adapter, which is merged into the base here, once, in float32.
    Weights are stored in `dtype`; auto: the base's. The folder appears complete, by rename, and replaces an existing one.
    `say` gets a sentence on what an adapter changed. Raises ModelError when base or result cannot be loaded or do not match,
    and when the result changes nothing.
    """
    import torch

    of_base = config(base, revision).dtype or torch.float32
    stored = of_base if dtype == "auto" else getattr(torch, dtype)
    processor = load_processor(base, revision)
    if (result / adapters.FILE).is_file():
        model: Any = merged(base, revision, result, say)
    else:
        adapters.refuse_unchanged(base, revision, result)
        model = load(str(result), dtype="float32")
    temporary = out.parent / f".{out.name}.writing"
    shutil.rmtree(temporary, ignore_errors=True)
    model.to(stored).save_pretrained(temporary)
    processor.save_pretrained(temporary)
    _generation_config(base, revision).save_pretrained(temporary)
    runs.write_text(temporary / "README.md", card)
    if (result / PROMPT).is_file():
        shutil.copy(result / PROMPT, temporary)
    runs.replace(out, temporary)
    return out


def write_adapter(
    base: str,
    identity: str,
    result: Path,
    out: Path,
    card: str,
    name: str,
    revision: str | None = None,
    say: Callable[[str], None] = log.info,
) -> Path:
    """Write the model folder `out` of an adapter that is not merged: it, processor, configurations, `card`, and its base's name.

    `base` is the base's folder, to which `out` gets a link, or its name on the Hub; `name` is what it is called, `identity`
    names its content. The folder appears complete, by rename. Raises ModelError when `result` is no adapter, or changes
    nothing.
    """
    if not (result / adapters.FILE).is_file():
        raise ModelError(
            f"{result} has whole weights, not an adapter: train with training.mode=lora, or set registry.form=merged."
        )
    say(f"the adapter changes {adapters.check(result)} weights of {name}")
    temporary = out.parent / f".{out.name}.writing"
    shutil.rmtree(temporary, ignore_errors=True)
    load_processor(base, revision).save_pretrained(temporary)
    config(base, revision).save_pretrained(temporary)
    _generation_config(base, revision).save_pretrained(temporary)
    shutil.copy(result / adapters.WEIGHTS, temporary)
    here = Path(base).is_dir()
    own = json.loads((result / adapters.FILE).read_text()) | {"base_model_name_or_path": "base" if here else name}
    runs.write_text(temporary / adapters.FILE, json.dumps(own, indent=2) + "\n")
    origin = {"name": name, "revision": revision, "identity": identity}
    runs.write_text(temporary / adapters.BASE, json.dumps(origin) + "\n")
    runs.write_text(temporary / "README.md", card)
    if (result / PROMPT).is_file():
        shutil.copy(result / PROMPT, temporary)
    if here:
        (temporary / "base").symlink_to(os.path.relpath(Path(base).resolve(), temporary.resolve()))
    runs.replace(out, temporary)
    return out


def prompt(folder: Path | str) -> dict[str, Any]:
    """How to prompt the model of a folder, and what its boxes count (`format.grids`); empty if it does not say, as the
    folder of a base model or a name on the Hub.

    Raises ModelError when the file that says so cannot be read.
    """
    path = Path(folder) / PROMPT
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
        convention = found.get("boxes", grids.ORIGINAL)
        if not re.match(grids.CONVENTION, convention):
            raise ValueError(f"boxes: {convention}")
        return {"images_first": bool(found["images_first"]), "boxes": convention}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f'{path} must hold {{"images_first": true, "boxes": "original"}} or the like ({error!r}): fix or delete it.'
        ) from None


def write_prompt(folder: Path, images_first: bool, boxes: str) -> None:
    """Write what `prompt` reads."""
    found = {"images_first": images_first, **({"boxes": boxes} if boxes != grids.ORIGINAL else {})}
    runs.write_text(folder / PROMPT, json.dumps(found) + "\n")


def merged(base: str, revision: str | None, adapter: Path, say: Callable[[str], None] = log.info) -> Any:
    """The base's weights in float32 with an adapter merged into them; `say` gets a sentence on what that changed.

    Raises ModelError when they do not match, and when nothing would change.
    """
    found, changed = adapters.merge(load(base, revision, dtype="float32"), adapter, base)
    say(changed)
    return found


def _generation_config(base: str, revision: str | None) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(base, revision=revision or "main")
    except OSError:  # a base without one: what its config says
        return GenerationConfig.from_model_config(config(base, revision))


def multiplies_bfloat16() -> bool:
    """Whether bfloat16 products are fast here: on a GPU, or on a CPU that has instructions for them."""
    import torch

    if torch.cuda.is_available():
        return True
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def fast_products(device: str) -> Any:
    """A context (autocast) in which products on a device, `cpu` or `cuda`, are computed in bfloat16 if that is faster there.

    On a CPU without instructions for it, a step of the tiny base's tower took 8.5 s in bfloat16, and 0.5 s in float32.
    """
    import torch

    return torch.autocast(device, torch.bfloat16, enabled=device != "cpu" or multiplies_bfloat16())
