"""What differs between families of base models: the one room that knows what a model is like inside.

All of them have a tower that turns a picture's patches into one token for each cell of 2x2 patches, a language model, and
transformers' interface: `get_image_features`, whose result the model accepts instead of pixels. To add a family, add it to
`FAMILIES`, and to `storyreason/sample/untrained.py` a tiny model of its class: `tests/storyreason/test_architecture.py` then
runs on it.

>>> from types import SimpleNamespace
>>> of(SimpleNamespace(model_type="qwen3_vl")).name
'Qwen3-VL'
"""

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from storyreason import patches
from storyreason.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

Target = Literal["attention", "mlp", "merger", "tower"]
"""The parts of a model that adapters can be put on, and that can have a learning rate of their own."""
TARGETS: tuple[Target, ...] = get_args(Target)
ATTENTION = r".*language_model.*\.self_attn\.[qkvo]_proj"
ADAPTED: Mapping[Target, str] = {
    "attention": ATTENTION,
    "mlp": r".*language_model.*\.mlp\.(gate|up|down)_proj",
    "merger": r".*visual\.(merger|deepstack_merger_list\.\d+)\.(mlp\.[02]|linear_fc\d)",
    "tower": r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.((gate|up|down)_proj|linear_fc\d))",
}
"""The linear layers of each target in Qwen's families, as a regular expression of their whole names. Not the embedding of
patches: vLLM gives other tokens with adapters on it."""

PLAIN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Turns as Qwen writes them, and nothing else: no system turn, no thinking block, no tools."""
PLAIN_LFM = "{{ bos_token }}" + PLAIN.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>")
"""The same for LFM2.5-VL, whose turns look the same. Its processor frames each picture itself."""

Part = Literal["layers", "adapters", "patches", "tower", "merger", "lookups"]


@dataclass(frozen=True)
class Family:
    """What training and generation need to know of the models of one class."""

    name: str
    """As its makers write it."""
    boxes: str
    """What the boxes count that its published weights write: the first word of a convention (`format.grids`)."""
    tower: tuple[str, ...] = ("visual",)
    """The attributes, beside the language model, that turn pictures into tokens: the tower, and its merger if that is not
    in it. The first computes in the dtype that features are kept in."""
    blocks: str = "depth"
    """The number of the tower's blocks in its configuration."""
    pictures: patches.Patches = patches.QWEN
    """How its processor and its tower hand over pictures."""
    rows: int = 3
    """The rows of a token's position: time, height and width (M-RoPE), or its place alone."""
    adapted: Mapping[Target, str] = field(default_factory=lambda: ADAPTED)
    """The layers that LoRA adapts for each target, as a regular expression of their whole names."""
    recurrent: str | None = None
    """The attribute of a decoder layer that carries something from token to token, whatever the positions say: a state, or
    a convolution. A story in a packed row would see those before it, so each passes through such a layer by itself."""
    template: str | None = None
    """The chat template that replaces its own, for training and in model folders; None: its own. Replaced is one that opens
    or closes a thinking block itself, or takes such a block out of an answer: the analysis of a story is one."""
    norm: str = "norm"
    """The attribute of the language model with the norm after its last layer."""
    windows: bool = True
    """Whether the tower attends within windows or frames whose ends it hands on (`training.windows`)."""
    liger: bool = True
    """Whether Liger has kernels for its language model."""
    rotary: bool = False
    """Whether a training hands Liger's rotary embedding to its language model, for Liger does not."""
    told_on_cpu: bool = True
    """Whether vLLM's build for CPUs tells what transformers tells."""


FAMILIES = {
    "qwen2_5_vl": Family("Qwen2.5-VL", boxes="resized", rotary=True),
    "qwen3_vl": Family("Qwen3-VL", boxes="thousandths"),
    "qwen3_5": Family(
        "Qwen3.5",
        boxes="thousandths",
        adapted={
            **ADAPTED,
            "attention": rf"{ATTENTION}|.*language_model.*\.linear_attn\.(in_proj_(qkv|z|a|b)|out_proj)",
        },
        recurrent="linear_attn",
        template=PLAIN,
    ),
    "lfm2_vl": Family(
        "LFM2.5-VL",
        boxes="thousandths",
        tower=("vision_tower", "multi_modal_projector"),
        blocks="num_hidden_layers",
        pictures=patches.LFM,
        rows=1,
        adapted={
            "attention": r".*language_model.*\.(self_attn\.([qkv]|out)_proj|conv\.(in|out)_proj)",
            "mlp": r".*language_model.*\.feed_forward\.w[123]",
            "merger": r".*multi_modal_projector\.linear_[12]",
            "tower": r".*vision_tower\.encoder.*\.(self_attn\.([qkv]|out)_proj|mlp\.fc[12])",
        },
        recurrent="conv",
        template=PLAIN_LFM,
        norm="embedding_norm",
        windows=False,
        liger=False,
        told_on_cpu=False,
    ),
}
"""The known families by the `model_type` of their configuration."""
TOWERS = tuple(dict.fromkeys(f"{one}." for family in FAMILIES.values() for one in family.tower))
"""In the names of all weights of a tower, and of no other."""
MERGERS = ("merger", "projector")
NORMS = tuple(dict.fromkeys(family.norm for family in FAMILIES.values()))
CARRYING = ("linear_attention", "conv")
"""The kinds of decoder layers that carry something from token to token, instead of comparing every token with every other."""


def of(config: Any, name: str = "this model") -> Family:
    """The family of a model, by its configuration. Raises ModelError, with the model's `name`, for any other."""
    if (found := FAMILIES.get(config.model_type)) is None:
        raise ModelError(
            f"The base model {name} is a {config.model_type!r} model, and a run can start from {known()} only: name one of these "
            "(docs/bases.md)."
        )
    return found


def known() -> str:
    """The names of all families, for a sentence."""
    *names, last = (family.name for family in FAMILIES.values())
    return f"{', '.join(names)} or {last}"


def inside(base: Any) -> Any:
    """The part of a base, with adapters or without, that holds the tower and the language model."""
    return base.get_base_model().model if hasattr(base, "get_base_model") else base.model


def towers(holder: Any) -> dict[str, Any]:
    """The tower by its attributes in the part of a base that `inside` gives."""
    return {name: getattr(holder, name) for name in of(holder.config).tower}


def in_tower(name: str) -> bool:
    """Whether a weight belongs to a tower or its merger, by its name."""
    return any(one in name for one in TOWERS)


def not_quantized(base: Any) -> list[str]:
    """The modules that stay as they are when a base of this configuration is quantized: their features are few."""
    return [*(f"model.{one}" for one in of(base).tower), "lm_head"]


def takes_features(base: Any) -> bool:
    """Whether a base accepts a tower's features instead of pixels: in transformers since 5.19."""
    return "mm_encoder_outputs" in inspect.signature(inside(base).forward).parameters


def feature_size(config: Any) -> int:
    """The numbers of a picture's token: the tower's output, and as many for each DeepStack map after it.

    DeepStack (Qwen3-VL, arXiv 2511.21631) adds maps of inner layers of the tower to the first layers of the language model.
    """
    maps = 1 + len(getattr(config.vision_config, "deepstack_visual_indexes", ()))
    return int(config.get_text_config().hidden_size * maps)


def see(holder: Any, pixels: "Tensor", grids: "Tensor") -> "Iterator[Tensor]":
    """The features [tokens, `feature_size`] of each picture from its patches (`chat.Inputs`), computed by the tower."""
    import torch

    given = of(holder.config).pictures.given(pixels, grids)
    seen = holder.get_image_features(**given, return_dict=True)
    maps = (seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ()))
    return (torch.cat(of_one, dim=1) for of_one in zip(*maps, strict=True))


def arguments(batch: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """The arguments of a base for a batch of `chat.Inputs`, which has `features` of its pictures or `pixel_values`."""
    family, given = of(config), dict(batch)
    if family.rows == 1:  # nothing that numbers tokens by pictures
        del given["mm_token_type_ids"]
    if "features" in given:
        given["mm_encoder_outputs"] = as_seen(given.pop("features"), config)
        return given if family.rows > 1 else _without(given, "image_grid_thw")
    return given | family.pictures.given(given.pop("pixel_values"), given.pop("image_grid_thw"))


def _without(given: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key != name}


def as_seen(found: "Tensor", config: Any) -> dict[str, Any]:
    """The features of a batch's pictures, [tokens, `feature_size`], in the form that a base accepts instead of pixels."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    # The base expects those of each picture, and concatenates them.
    maps: Any = [(part,) for part in found.split(config.get_text_config().hidden_size, dim=1)]
    if len(maps) == 1:
        return {"image": BaseModelOutputWithPooling(pooler_output=maps[0])}
    return {"image": BaseModelOutputWithDeepstackFeatures(pooler_output=maps[0], deepstack_features=maps[1:])}


def part(name: str) -> Part:
    """What a weight belongs to, by its name: an adapter, the language model or a part of the tower.

    >>> part("model.visual.deepstack_merger_list.0.linear_fc1.weight")
    'merger'
    """
    if "lora_" in name:
        return "adapters"
    if not in_tower(name):
        return "layers" if ".layers." in name else "lookups"
    kinds: tuple[tuple[str, Part], ...] = (
        *((word, "merger") for word in MERGERS),
        ("patch_embed", "patches"),
        ("pos_embed", "lookups"),
        ("position_embed", "lookups"),
    )
    return next((kind for word, kind in kinds if word in name), "tower")


def target(name: str) -> Target | None:
    """What a weight or its adapter belongs to, by its name; None: to none of them, such as embeddings.

    >>> target("base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.default.weight")
    'mlp'
    """
    if in_tower(name):
        return "merger" if any(word in name for word in MERGERS) else "tower"
    if ".mlp." in name or ".feed_forward." in name:
        return "mlp"
    return "attention" if "attn." in name or ".conv." in name else None


def layers(base: Any, wanted: Collection[Target]) -> dict[Target, list[str]]:
    """The names of the linear layers of a base that adapters on these targets would reach."""
    from torch.nn import Linear

    linear = [name for name, module in base.named_modules() if isinstance(module, Linear)]
    adapted = of(base.config).adapted
    return {one: [name for name in linear if re.fullmatch(adapted[one], name)] for one in wanted}


def attending(config: Any) -> int:
    """How many layers of the language model compare every token with every other."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    return sum(kind not in CARRYING for kind in kinds)
