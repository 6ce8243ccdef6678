"""How much memory a training will take, before it begins: from the base's configuration alone, without its weights.

The base is made without memory, with fewer layers, and passes a row forward and backward while what it would allocate is
counted, so that activations are those of its own class, its adapters and its activation checkpointing. Every layer adds the
same, so that two such runs tell of any number.
"""

import copy
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from storyreason import architecture
from storyreason.training import machine, setup
from storyreason.training.config import ImproveConfig, TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from storyreason.training.examples import StoryDataset
    from storyreason.training.plan import Plan

GB = 1e9
CUDA = 1.0
"""GB that a GPU holds beside tensors: its context, and the workspaces of its libraries."""
LIBRARIES = 0.25
"""GB that a process on a CPU grows by before its first step: what torch and PEFT load then."""
HOLES = 0.3
"""What a CPU's memory holds beside activations and logits, as a share of them: malloc cannot reuse all that is freed."""
NF4 = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in four bits, with its share of the scales, which are quantized too."""
FEW, MORE = 2, 3
"""The numbers of layers that are counted, in the least unit that a model repeats."""
PATCHES = 256
"""The patches of the picture that a trained tower is measured with."""


@dataclass(frozen=True)
class Row:
    """What passes through the model at a time, at most."""

    tokens: int
    labels: int
    patches: int = 0
    """Those of its pictures; 0 where the tower does not run."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process on its device."""

    weights: int
    """The model, and the copies of it that it computes with."""
    gradients: int
    optimizer: int
    activations: int
    logits: int
    other: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def of(config: Any, training: TrainingConfig, row: Row, improve: ImproveConfig | None = None) -> Memory:
    """The memory that a training of a base with this configuration (transformers') takes in each process.

    With `improve`, that of a training from preferences or rewards. Its loss needs the log-probability of each token, so logits
    are not computed in chunks. What the model gave the answers at the start is computed before and kept as numbers: there is
    no second model. The engine that answers takes turns with the training, and is not counted.
    """
    from transformers.utils import is_liger_kernel_available

    family = architecture.of(config)
    place = machine.Machine.of(training)
    cuda = not place.on_cpu
    sharded = place.fsdp is not None
    offloaded = bool(place.fsdp and place.fsdp.get("fsdp_offload_params"))
    low = training.dtype != "float32" if cuda else machine.resolve_dtype(training.dtype) == "bfloat16"
    frozen, trained, tower, quantized = _numbers(config, training)
    if training.freezes_tower() and training.feature_cache_gb and (cuda or training.mode == "lora"):
        frozen -= tower  # left out; without a GPU, `language` keeps it in the memory that it computes in
    held = 0 if offloaded else 1
    parts = place.processes if sharded else 1
    each = 2 if training.mode == "lora" and low else 4
    # Gathered in the dtype of the products, and kept until the step ends.
    gathered = (2 if low else 4) * (frozen + trained) if sharded else 0
    # A copy is exchanged between processes that do not shard.
    copies = 2 if place.processes > 1 and not sharded else 1
    # From the second round on, the trained weights of the start are kept in the CPU's memory.
    kept = 4 * trained // parts if place.on_cpu and improve and improve.method == "grpo" and improve.rounds > 1 else 0
    fused = training.liger and cuda and family.liger and bool(is_liger_kernel_available())
    activations, logits = _activations(config, training, row, low, fused, improve)
    activations += _tower(config, training, row, low)
    return Memory(
        weights=(each * (frozen - quantized) + int(NF4 * quantized) + 4 * trained) * held // parts + gathered + kept,
        gradients=4 * trained * copies,
        optimizer=8 * trained * held // parts,
        activations=activations,
        logits=logits,
        other=int(CUDA * GB if cuda else LIBRARIES * GB + HOLES * (activations + logits)),
    )


def _numbers(config: Any, training: TrainingConfig) -> tuple[int, int, int, int]:
    """Frozen numbers, trained ones, and of the frozen ones those of the tower, and those in four bits."""
    from torch.nn import Linear

    net = _made(config, training, "float32")
    named = list(net.named_parameters())
    trained = sum(weight.numel() for _, weight in named if weight.requires_grad)
    tower = sum(weight.numel() for name, weight in named if architecture.in_tower(name))
    kept = architecture.not_quantized(config)
    linear = (
        module.weight
        for name, module in net.named_modules()
        if isinstance(module, Linear) and not any(one in name for one in kept)
    )
    packed = sum(weight.numel() for weight in linear if not weight.requires_grad)
    quantized = packed if training.quantize else 0
    return sum(weight.numel() for _, weight in named) - trained, trained, tower, quantized


def _made(config: Any, training: TrainingConfig, dtype: str, improve: ImproveConfig | None = None) -> Any:
    """A base as it is trained, without its weights."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        base = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))
        base.tie_weights()
        return setup.marked(base, training, dropout=setup.dropout(improve))


def _unit(config: Any) -> list[str]:
    """The kinds of the language model's layers that it repeats, such as three linear ones and one of full attention."""
    text = config.get_text_config()
    kinds = list(getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers)
    return next(kinds[:n] for n in range(1, len(kinds) + 1) if kinds == (kinds[:n] * len(kinds))[: len(kinds)])


def _units(config: Any) -> float:
    return float(config.get_text_config().num_hidden_layers / len(_unit(config)))


def _with_layers(config: Any, units: int) -> Any:
    """The configuration with this many units of layers, and one block in the tower."""
    made = copy.deepcopy(config)
    text = made.get_text_config()
    text.num_hidden_layers = units * len(_unit(config))
    if getattr(text, "layer_types", None):
        text.layer_types = _unit(config) * units
    setattr(made.vision_config, architecture.of(config).blocks, 1)
    for name in ("deepstack_visual_indexes", "fullatt_block_indexes"):
        if hasattr(made.vision_config, name):
            setattr(made.vision_config, name, [0])
    return made


def _activations(
    config: Any, training: TrainingConfig, row: Row, low: bool, fused: bool, improve: ImproveConfig | None
) -> tuple[int, int]:
    """Peak bytes of one pass forward and backward without logits, and what these add."""
    few, more = (_with_layers(config, units) for units in (FEW, MORE))
    first, second = (_peak(one, training, row, low, fused, row.labels, improve) for one in (few, more))
    logits = max(0, first - _peak(few, training, row, low, fused, 0, improve))
    return first - logits + int((second - first) * (_units(config) - FEW)), logits


def _peak(
    config: Any, training: TrainingConfig, row: Row, low: bool, fused: bool, labels: int, improve: ImproveConfig | None
) -> int:
    """Bytes that a pass of a row through the language model allocates at a time, where gradients are there already."""
    import torch

    from storyreason.compat import liger, memory

    place = machine.Machine.of(training)
    of_products = low and (training.mode == "lora" or place.fsdp is not None)
    net = _made(config, training, "bfloat16" if of_products else "float32", improve).train()
    if training.recompute != "none":
        net.gradient_checkpointing_enable(gradient_checkpointing_kwargs=setup.checkpointing(training.recompute))
    setup.recompute_if_long(net, training, row.tokens)
    batch = 1 if training.pack_tokens else training.batch_size * documents(improve)
    tokens = row.tokens // batch
    with memory.without_memory(), liger.counted(net, setup.rotates(config, training)) if fused else nullcontext():
        memory.renew(net)
        if not place.on_cpu:
            memory.drop_out_as_on_gpus(net)
        for weight in net.parameters():
            weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
        inner = architecture.inside(net)
        words = torch.zeros(batch, tokens, dtype=torch.long)
        rows = architecture.of(config).rows
        positions = torch.arange(tokens).expand(*([rows] if rows > 1 else []), batch, tokens)
        gradients = (weight.grad for weight in net.parameters() if weight.grad is not None)
        with memory.Allocated((*net.parameters(), *net.buffers(), *gradients)) as counted:
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                seen = inner.get_input_embeddings()(words)
                seen = inner.language_model(inputs_embeds=seen, position_ids=positions, use_cache=False)[0]
                loss = _loss(net, seen.flatten(0, 1), labels, fused and improve is None)
            loss.backward()
        peak: int = counted.peak
        return peak


def _loss(net: Any, seen: "Tensor", labels: int, fused: bool) -> "Tensor":
    """A loss of hidden states [tokens, size], of which this many have a label."""
    import torch
    from torch.nn.functional import cross_entropy

    from storyreason.compat import liger

    if not labels:
        return seen.float().sum()
    if fused:
        found: Tensor = liger.Head.apply(seen, net.get_output_embeddings().weight)  # type: ignore[no-untyped-call]
        return found
    targets = torch.zeros(labels, dtype=torch.long)
    return cross_entropy(net.get_output_embeddings()(seen[targets]).float(), targets, reduction="sum")


def _tower(config: Any, training: TrainingConfig, row: Row, low: bool) -> int:
    """Bytes that a trained tower keeps of a row's pictures: from a real pass of one picture through few of its blocks."""
    import torch
    from transformers import AutoModelForImageTextToText

    from storyreason.compat import memory, models

    if training.freezes_tower() or not row.patches:
        return 0
    family = architecture.of(config)
    with torch.device("meta"):
        inner = architecture.inside(AutoModelForImageTextToText.from_config(config))
        kind: Any = type(next(iter(architecture.towers(inner).values())))
    peaks = []
    for depth in (FEW, MORE):
        vision = copy.deepcopy(config.vision_config)
        setattr(vision, family.blocks, depth)
        for name in ("deepstack_visual_indexes", "fullatt_block_indexes"):
            if hasattr(vision, name):
                setattr(vision, name, [])
        net = models.made(kind, vision).train()
        if training.recompute != "none":
            net.gradient_checkpointing_enable(gradient_checkpointing_kwargs=setup.checkpointing(training.recompute))
        side = int(PATCHES**0.5)
        patches = torch.zeros(PATCHES, family.pictures.numbers(vision))
        for weight in net.parameters():
            weight.grad = torch.zeros_like(weight)
        gradients = (weight.grad for weight in net.parameters() if weight.grad is not None)
        with memory.Allocated((*net.parameters(), *net.buffers(), *gradients)) as counted:
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                seen = family.pictures.run(net, patches, torch.tensor([[1, side, side]]))
            kept = counted.now
            del seen
        peaks.append(kept)
    whole = peaks[0] + (peaks[1] - peaks[0]) * (getattr(config.vision_config, family.blocks) - FEW)
    return int(whole * row.patches // PATCHES)


def documents(improve: ImproveConfig | None) -> int:
    """How many answers, each with its prompt, an item of the plan has: a pair has two."""
    return 2 if improve and improve.method == "dpo" else 1


def largest(stories: "StoryDataset", schedule: "Plan", training: TrainingConfig) -> tuple[Row, ...]:
    """The row of a plan with the most tokens; with `recompute: long`, first that of those that are not recomputed."""
    rows = [
        Row(
            sum(stories.tokens(item) for item in items),
            sum(stories.loss_tokens(item) for item in items),
            sum(4 * stories.image_tokens(item[1]) * len(stories.passes(item)) for item in items),
        )
        for part in schedule.parts
        for one_pass in part
        for items in one_pass
        if items
    ]
    most = max(rows, key=lambda row: row.tokens)
    kept = [row for row in rows if row.tokens <= (training.pack_tokens or 0)] if training.recompute == "long" else []
    return *([max(kept, key=lambda row: row.tokens)] if kept else []), most
