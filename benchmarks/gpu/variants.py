"""What each change to LoRA training of 7B would give, alone and together: tokens per second, MFU, memory."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from recipes import PACK
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import AttentionInterface
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling

from benchmarks.gpu.attention import in_one_call
from benchmarks.gpu.common import DRY, failure_reported, free_memory, peak_gb, report, seconds, seconds_left
from benchmarks.gpu.seven import FUSED, Subject, trainer_loss
from storyreason.compat import liger
from storyreason.training import packing, setup

VARLEN = "benchmark_varlen"
"""The name under which transformers knows `varlen_attend`."""
LONG = 32_768
ROUNDS = 1 if DRY else 3
STORIES = range(8, 9) if DRY else range(8, 16)
"""The stories of a timed step."""
rotate = modeling.apply_rotary_pos_emb


@dataclass(frozen=True)
class Variant:
    """One way to train; the default is how a training does it today."""

    name: str
    pack: int = PACK["7b"]
    recompute: Literal["none", "selective", "products", "all"] = "none"
    """`products` keeps every product of matrices but those of rank 16."""
    varlen: bool = False
    """One call of attention for all stories of a row."""
    float32_copies: bool = False
    """Whether LoRA copies its inputs to float32."""
    liger_rope: bool = True
    """It changes its input in place: not with a product kept that it changes."""


REBUILT = (
    Variant("as it is, but cudnn builds for new lengths"),
    Variant("the same lengths again"),
)
TRIED = (
    Variant("as it is: 12k rows, nothing recomputed, Liger's rope"),
    Variant("torch's rope", liger_rope=False),
    Variant("varlen attention in place of cudnn", varlen=True),
    Variant("10k rows", pack=10_240),
    Variant("14k rows", pack=14_336),
    Variant("16k rows, products kept", pack=16_384, recompute="products"),
    Variant("16k rows, selective, torch's rope", pack=16_384, recompute="selective", liger_rope=False),
    Variant("32k rows, recompute all", pack=LONG, recompute="all"),
    Variant("the same, and float32 copies in LoRA", pack=LONG, recompute="all", float32_copies=True),
)
ON_ONE_LONG = (
    Variant("32k story, recompute all", pack=LONG, recompute="all"),
    Variant("32k story, selective", pack=LONG, recompute="selective", liger_rope=False),
)


def varlen_attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, position_ids: Any = None, scaling: Any = None,
    **others: Any,
) -> tuple[Any, None]:  # fmt: skip
    """As `packing.attend`, in one call."""
    if DRY:
        return packing.attend(module, query, key, value, attention_mask, position_ids, scaling=scaling, **others)
    return in_one_call(packing.lengths_of(position_ids), query, key, value, scaling), None


def keep_products(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    if operation in setup.PRODUCTS:
        right = args[setup.PRODUCTS[operation] + 1]
        keep = right.shape[-1] <= 16 or right.shape[0] > 64  # not what comes out of rank 16
    else:
        keep = any(name in str(operation) for name in setup.KERNELS)
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


POLICIES: dict[str, Callable[..., CheckpointPolicy]] = {"selective": setup.keep_costly, "products": keep_products}


def set_up(subject: Subject, variant: Variant) -> None:
    """Change the model so that it trains by this variant."""
    subject.core.set_attn_implementation({"text_config": VARLEN if variant.varlen else packing.ATTENTION})
    for module in subject.base.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = variant.float32_copies
    modeling.apply_rotary_pos_emb = rotate
    if FUSED and variant.liger_rope:
        liger.rotate(subject.core)
    subject.base.gradient_checkpointing_disable()
    if variant.recompute == "none":
        return
    how: dict[str, Any] = {"use_reentrant": False}
    if policy := POLICIES.get(variant.recompute):
        how["context_fn"] = partial(create_selective_checkpoint_contexts, policy)
    subject.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)


def rebuilt() -> None:
    """As it was: cuDNN builds kernels for each new length."""
    subject = _subject(windows=False)
    for number, variant in enumerate(REBUILT):
        if number == 0:
            warm_up(subject, variant)
        report(variant=variant.name, **timed(subject, variant, STORIES))


def measure() -> None:
    """Each variant in turn on a step of 8 stories, several rounds, then one story of 32,768 tokens.

    The first round is not counted: kernels are built in it, for lengths that were not seen before. Variants are at most as
    different as a machine is from itself: without rounds, the same variant took 11,800 and 14,700 tokens/s.
    """
    AttentionInterface.register(VARLEN, varlen_attend)
    subject = _subject(windows=True)
    found: dict[str, list[dict[str, Any]]] = {variant.name: [] for variant in TRIED}
    for number in range(1 + ROUNDS):
        for variant in TRIED:
            if seconds_left() < 40:
                break
            with failure_reported(variant=variant.name):
                one = timed(subject, variant, STORIES)
                if number:
                    found[variant.name].append(one)
    for name, rounds in found.items():
        if rounds:
            middle = sorted(rounds, key=lambda one: one["tokens_per_s"])[len(rounds) // 2]
            report(variant=name, **middle, rounds=[round(one["tokens_per_s"]) for one in rounds])
    add_long_story(subject)
    for variant in ON_ONE_LONG:
        if seconds_left() < 12:
            break
        try_long(subject, variant)


def _subject(windows: bool) -> Subject:
    subject = Subject("lora", 2 if DRY else 28, stories=16, windows=windows)
    operations = subject.cost.per_image_token * subject.world.images[0]
    tower = [round(one, 3) for one in subject.tower_seconds]
    report(weights_gb=peak_gb(), tower_s_a_story=tower, tower_operations_tf=operations / 1e12, windows=windows)
    return subject


def warm_up(subject: Subject, variant: Variant) -> None:
    set_up(subject, variant)
    subject.passes(list(range(1 if DRY else 4)), _row(variant), trainer_loss)
    subject.update()


def timed(subject: Subject, variant: Variant, stories: Sequence[int]) -> dict[str, Any]:
    """The figures of one step."""
    subject.optimizer.zero_grad()
    set_up(subject, variant)
    free_memory()
    rows: list[int] = []

    def step() -> None:
        rows.append(subject.passes(stories, _row(variant), trainer_loss)[0])
        subject.update()

    spent = seconds(step)
    return {"rows": rows[0], **subject.figures(stories, spent), "peak_gb": peak_gb()}


def _row(variant: Variant) -> int:
    return 4096 if DRY else variant.pack


def add_long_story(subject: Subject) -> None:
    """The first story, whose answer is longer: the last of the ready ones."""
    first, world = subject.ready[0], subject.world
    extra = 100 if DRY else LONG - world.lengths[0]
    more = torch.randint(0, 1000, (extra,))
    world.lengths.append(world.lengths[0] + extra)
    world.answers.append(world.answers[0] + extra)
    longer = dataclasses.replace(
        first,
        input_ids=torch.cat([first.input_ids, more]),
        labels=torch.cat([first.labels, more]),
        mm_token_type_ids=torch.cat([first.mm_token_type_ids, torch.zeros_like(more)]),
    )
    subject.ready.append(longer)


def try_long(subject: Subject, variant: Variant) -> None:
    last = [len(subject.ready) - 1]
    subject.optimizer.zero_grad()
    with failure_reported(variant=variant.name):
        set_up(subject, variant)
        free_memory()

        def step() -> None:
            subject.passes(last, variant.pack, trainer_loss)
            subject.update()

        step()
        report(variant=variant.name, seconds=seconds(step), peak_gb=peak_gb())
